"""The folder in which the API processes of one service keep their counts, so that any of them can tell all.

prometheus-client writes there (its multiprocess mode): in /dev/shm, unless ``TMPDIR`` names another place. A
process is known by its number and not by its id: one that is started again goes on with the counts of the one before.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

ENVIRONMENT = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client reads it

_MEMORY = Path("/dev/shm")  # nosec B108: each service makes a folder of a new name
_PREFIX = "digits-metrics-"


class FolderError(Exception):
    """The folder cannot be made; give the service a temporary folder that it may write to (``TMPDIR``)."""


@contextlib.contextmanager
def make_folder() -> Iterator[Path]:
    """An empty folder, which is removed at the end. Removes what services left that were killed.

    Raises:
        FolderError: there is no place for it.
    """
    try:
        is_told = "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK)
        parent = Path(tempfile.gettempdir()) if is_told else _MEMORY
        _sweep(parent)
        new = Path(tempfile.mkdtemp(prefix=".digits-", dir=parent))
    except OSError as error:
        raise FolderError(f"no place for the counts of /metrics: {error.strerror or error}; set TMPDIR") from None
    with _lock(new):
        folder = new.rename(parent / f"{_PREFIX}{new.name.rpartition('-')[2]}")  # from now on others may sweep it
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def use(folder: Path, number: int) -> None:
    """Keep the counts of this process there. Call this before the first metric is made."""
    os.environ[ENVIRONMENT] = str(folder)
    from prometheus_client import values  # here: a supervisor needs none of it

    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def forget(folder: Path, number: int) -> None:
    """A process has ended: what it was just doing no longer counts. What it has done still does."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(number, str(folder))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which ends with the process.

    Raises:
        BlockingIOError: another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), _lock(folder):  # it may be of a service that runs, or of another user
            shutil.rmtree(folder, ignore_errors=True)
