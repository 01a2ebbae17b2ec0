"""Writing so that a reader, or the next start, meets the old content or the new, never a part."""

import os
import uuid
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Write a file that is on the disk when this returns.

    Raises:
        OSError: it cannot be written, as where the disk is full; a part may be left.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Write a file under its name at once: under another name first, then renamed.

    Raises:
        OSError: it cannot be written; what stood there before still does, and no part is left.
    """
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        write(temporary, data)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
