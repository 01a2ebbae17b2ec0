"""Remove versions, and the seed indexes that only they have needed.

A version is renamed to a hidden name first, so no reader sees a half of it. Who has opened one of its files, or
has it in memory, goes on with that. Its number stays given (:data:`models.versions.NUMBERS`): nobody gets it again.
"""

import shutil
import time
import uuid
from pathlib import Path

from models import files, seed_index
from models.archs import ARCHS
from models.choices import PIN
from models.manifest import InvalidVersionError, read_manifest
from models.publishing import JOBS
from models.versions import NUMBERS, PRETRAINED, list_numbers

REMOVED = ".removed-"  # how the name of a version begins that is being removed
MARK = "removed"  # a file in the folder of a number: its version was removed on purpose
RESTORING = ".restoring-"  # how the name of a folder begins into which a backup is unpacked

OLD_SECONDS = 24 * 3600.0  # without a change, after which nobody writes to something unfinished any more

# What a writer that died may leave in the folder of an architecture, and in the model directory.
_UNFINISHED_OF_ARCH = (".publishing-*", f"{REMOVED}*", f".{PIN}-*", f"{JOBS}/.*")
_UNFINISHED = (f"{RESTORING}*", f"{seed_index.FOLDER}/.*")


def remove(model_dir: Path, arch: str, version: int) -> None:
    """Remove a version of the model directory; its seed index, too, unless another version has the same weights.

    Raises:
        FileNotFoundError: there is no such version in the model directory.
        OSError: the directory cannot be written; the version is still there.
    """
    arch_dir = model_dir / arch
    folder = arch_dir / str(version)
    try:
        prefix = seed_index.make_prefix(read_manifest(folder))
    except (InvalidVersionError, OSError):
        prefix = None
    _record_given(model_dir, arch, version)  # an earlier release did not
    aside = arch_dir / f"{REMOVED}{version}-{uuid.uuid4().hex}"
    folder.rename(aside)
    files.sync(arch_dir)
    mark(model_dir, arch, version)
    if prefix and (used := _find_used_prefixes(model_dir)) is not None and prefix not in used:
        for path in seed_index.list_files(model_dir):
            if path.name.startswith(prefix):
                path.unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)  # what is left, `digits gc` finds


def mark(model_dir: Path, arch: str, version: int) -> None:
    """Record that a version is removed on purpose. Its number is given, and stays so.

    Raises:
        OSError: it cannot be recorded.
    """
    given = _record_given(model_dir, arch, version)
    files.write(given / MARK, b"")
    files.sync(given)


def _record_given(model_dir: Path, arch: str, version: int) -> Path:
    given = model_dir / arch / NUMBERS
    files.make_folder(given, exist_ok=True)
    files.make_folder(given / str(version), exist_ok=True)
    files.sync(given)
    return given / str(version)


def is_removed(model_dir: Path, arch: str, version: int) -> bool:
    """Whether a version was removed on purpose."""
    return (model_dir / arch / NUMBERS / str(version) / MARK).is_file()


def find_unfinished(model_dir: Path) -> list[Path]:
    """What was begun and neither finished nor changed for ``OLD_SECONDS``: files and folders that nobody reads."""
    found = [path for arch in ARCHS for pattern in _UNFINISHED_OF_ARCH for path in (model_dir / arch).glob(pattern)]
    found += [path for pattern in _UNFINISHED for path in model_dir.glob(pattern)]
    return [path for path in found if _is_old(path)]


def find_needless_indexes(model_dir: Path) -> list[Path]:
    """The seed indexes of versions that have gone; none if that cannot be read just now."""
    used = _find_used_prefixes(model_dir)
    found = [path for path in seed_index.list_files(model_dir) if not path.name.startswith(".")]
    return [] if used is None else [path for path in found if not path.name.startswith(tuple(used))]


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > OLD_SECONDS
    except OSError:  # it has just gone
        return False


def _find_used_prefixes(model_dir: Path) -> set[str] | None:
    """How the names of the seed indexes begin that some version needs; None if that cannot be read just now.

    Shipped versions count, whether they are hidden or not. Damaged ones do not: an index can be made again.
    """
    used = set()
    for root in (PRETRAINED, model_dir):
        for folder in (root / arch / str(number) for arch in ARCHS for number in list_numbers(root / arch)):
            try:
                used.add(seed_index.make_prefix(read_manifest(folder)))
            except InvalidVersionError:
                continue
            except OSError:
                return None
    return used
