"""Safe reading and writing: a reader, also after a crash, sees the old content or the new, never a part of it.

What is written has the permissions of the folder that it is in, whatever the umask of the process:
hosts and users that share that folder share all of it.
"""

import contextlib
import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

_READ_AND_WRITE = 0o666

# Errors that say nothing of a file: too many open ones, no memory, a network file system that stutters.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


def read(path: Path, max_bytes: int) -> bytes:
    """The content of a file that has at most ``max_bytes``: more are not read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > max_bytes else file.read(max_bytes + 1)
    if max(size, len(data)) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return data


def is_passing(error: OSError) -> bool:
    """Whether reading the same file later may succeed."""
    return error.errno in _PASSING


def write(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write a file and wait until it is on the disk. ``mode``: its permissions, if not those of its folder.

    Raises:
        OSError: it cannot be written, for example because the disk is full; a part may be left.
    """
    with path.open("wb") as file:
        with contextlib.suppress(OSError):  # as below
            os.fchmod(file.fileno(), path.parent.stat().st_mode & _READ_AND_WRITE if mode is None else mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def settle(path: Path) -> None:
    """Give a file that somebody else has written the permissions of its folder, and wait until it is on the disk.

    Raises:
        OSError: it cannot be read or written.
    """
    with path.open("rb") as file:
        with contextlib.suppress(OSError):  # as below
            os.fchmod(file.fileno(), path.parent.stat().st_mode & _READ_AND_WRITE)
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, mode: int | None = None, owner: tuple[int, int] | None = None) -> None:
    """Replace a file in one step: write it under another name, then rename it.

    ``mode`` as for :func:`write`. ``owner``: the ids of its user and group, if not those of this process.

    Raises:
        OSError: it cannot be written; the old file remains, and no part of the new one is left.
    """
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        write(temporary, data, mode)
        if owner is not None:
            _give(temporary, *owner)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _give(path: Path, user: int, group: int) -> None:
    """Give a file to a user and a group; leave it if this process may not, and everybody can read it.

    Raises:
        OSError: this process may not, and the user could not read the file.
    """
    now = path.stat()
    if (now.st_uid, now.st_gid) != (user, group):
        try:
            os.chown(path, user, group)
        except PermissionError:
            if not now.st_mode & stat.S_IROTH:
                raise


def make_root(path: Path) -> None:
    """Make the folder that all is shared in, if it is not there, with the permissions that the umask leaves.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None


def make_folder(path: Path, *, exist_ok: bool = False) -> None:
    """Make a folder in one that exists.

    Raises:
        FileExistsError: it is there already, unless it may be.
        OSError: it cannot be made.
    """
    try:
        path.mkdir()
    except FileExistsError:
        if exist_ok and path.is_dir():
            return
        raise
    with contextlib.suppress(OSError):  # it is another user's, or the file system has no permissions
        path.chmod(stat.S_IMODE(path.parent.stat().st_mode) & ~stat.S_ISVTX)


def sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep out all others that lock the same folder; wait for them first. A process that dies lets them in.

    Where the file system has no locks, it keeps nobody out.

    Raises:
        OSError: there is no such folder, or it cannot be read.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
