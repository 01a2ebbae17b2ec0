"""What a run needs to resume a job: its saved states, in the folder that all hosts share.

The files are ``<model dir>/.runs/<job>/state-<steps>.pt``. The last :data:`KEPT` of them are kept, in
case the newest cannot be read. A run makes the folder when it begins, and the folder is removed when
the job has ended: a run that wakes up after that has no place to write to. Before that, a run that has
lost its job does no harm if it writes, because all runs of a job have the same states, step by step. Only
states of another release may differ: a run that cannot go on from them replaces them by its own.
Must not import torch: the reconciler uses this module.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from models import files

logger = logging.getLogger(__name__)

KEPT = 2
ORPHAN_SECONDS = 24 * 3600.0  # the folder of an unknown job is removed after this long without a change

RUNS = ".runs"


def open_folder(model_dir: Path, job_id: str) -> Path:
    """Make the job's folder if it is missing, and return it.

    Raises:
        OSError: it cannot be made.
    """
    folder = model_dir / RUNS / job_id
    files.make_root(model_dir)
    files.make_folder(folder.parent, exist_ok=True)
    files.make_folder(folder, exist_ok=True)
    return folder


def write(folder: Path, steps: int, data: bytes, instead_of: Iterable[Path] = ()) -> None:
    """Add a state and delete those that are too old, or that it is there ``instead_of``.

    Raises:
        OSError: it cannot be written; the earlier states remain.
    """
    path = folder / f"state-{steps:09}.pt"
    files.replace(path, data)
    for refused in instead_of:
        if refused != path:
            refused.unlink(missing_ok=True)
    for old in _list_newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def read(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """The states with their files, newest first, without those that cannot be read."""
    for path in _list_newest_first(folder):
        try:
            yield path, path.read_bytes()
        except OSError as error:
            logger.warning("cannot read %s: %s", path, error)


def remove(model_dir: Path, job_id: str) -> None:
    """Delete all saved states of a job."""
    shutil.rmtree(model_dir / RUNS / job_id, ignore_errors=True)


def sweep(model_dir: Path, has_ended: Callable[[str], bool | None]) -> None:
    """Delete what :func:`find_unneeded` finds."""
    for folder in find_unneeded(model_dir, has_ended):
        remove(model_dir, folder.name)


def find_unneeded(model_dir: Path, has_ended: Callable[[str], bool | None]) -> Iterator[Path]:
    """The states of ended jobs, and of unknown jobs after ``ORPHAN_SECONDS`` without a change.

    ``has_ended`` says whether the job with an id has ended; None if there is no such job.
    """
    for folder in (model_dir / RUNS).glob("*"):
        ended = has_ended(folder.name)
        if ended or (ended is None and time.time() - folder.stat().st_mtime > ORPHAN_SECONDS):
            yield folder


def find_states(model_dir: Path, job_id: str) -> list[Path]:
    """The files of a job's states, newest first."""
    return _list_newest_first(model_dir / RUNS / job_id)


def _list_newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.pt"), reverse=True)
