"""What a job's run needs to go on: its saved states, in the one folder that the hosts share.

``<model dir>/.runs/<job>/state-<steps>.pt``, the last :data:`KEPT` of them; the older one is for
the case that the newest cannot be read. The folder is made when a run begins and goes when its
job has ended: a run that wakes up after that finds no place to write to. What one that has lost its
job writes before does no harm: the states of all runs of a job are the same, step by step. Must not
import torch: the reconciler uses this module.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from models import files

logger = logging.getLogger(__name__)

KEPT = 2
ORPHAN_SECONDS = 24 * 3600.0  # a folder whose job nobody knows goes after so long without a change

_RUNS = ".runs"


def open_folder(model_dir: Path, job_id: str) -> Path:
    """The job's folder, which exists from now on.

    Raises:
        OSError: it cannot be made.
    """
    folder = model_dir / _RUNS / job_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(folder: Path, steps: int, data: bytes) -> None:
    """Add a state, and drop those that are too old.

    Raises:
        OSError: it cannot be written; the earlier ones still stand.
    """
    files.replace(folder / f"state-{steps:09}.pt", data)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def read(folder: Path) -> Iterator[bytes]:
    """The states, the newest first; one that cannot be read is left out."""
    for path in _newest_first(folder):
        try:
            yield path.read_bytes()
        except OSError as error:
            logger.warning("cannot read %s: %s", path, error)


def remove(model_dir: Path, job_id: str) -> None:
    """Drop all that is saved of a job."""
    shutil.rmtree(model_dir / _RUNS / job_id, ignore_errors=True)


def sweep(model_dir: Path, has_ended: Callable[[str], bool | None]) -> None:
    """Drop what is saved of jobs that have ended, and long after its last change of unknown ones.

    ``has_ended`` says of a job's id whether it has, None where there is no such job.
    """
    for folder in (model_dir / _RUNS).glob("*"):
        ended = has_ended(folder.name)
        if ended or (ended is None and time.time() - folder.stat().st_mtime > ORPHAN_SECONDS):
            remove(model_dir, folder.name)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.pt"), reverse=True)
