"""Safe writing: a reader, also after a crash, sees the old content or the new, never a part of it."""

import os
import uuid
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk.

    Raises:
        OSError: it cannot be written, for example because the disk is full; a part may be left.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Replace a file in one step: write it under another name, then rename it.

    Raises:
        OSError: it cannot be written; the old file remains, and no part of the new one is left.
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
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
