"""Put a backup back: first everything is read, checked and unpacked aside, then it is put in its place.

Nothing is overwritten. A version or a job that is there already stays as it is; a version that is there with
other content stops the restore before it has changed anything. So a restore that was interrupted can be done again.
Nothing in a backup is run or unpickled.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from models import choices, files, publishing, removal, seed_index, versions
from models.archs import ARCHS
from models.choices import InvalidPinError
from models.manifest import MANIFEST, MAX_MANIFEST_BYTES
from worker import saved
from worker.backup import OnProgress
from worker.copies import CopyStore, Restored
from worker.unpacking import Unpacked, unpack


class ConflictError(Exception):
    """Versions of the backup are there with other content; nothing was changed. Restore into an empty directory."""


@dataclass
class Summary:
    """What a restore has done."""

    versions: int = 0
    versions_there: int = 0  # with the same content
    removed: list[str] = field(default_factory=list)  # versions that were removed here, and stay so
    jobs: dict[Restored, int] = field(default_factory=lambda: dict.fromkeys(Restored, 0))
    shown: set[str] = field(default_factory=set)  # versions that the backup leaves out, but no other one could draw
    pins_there: list[str] = field(default_factory=list)  # architectures whose pin here is another one, and stays


def restore(path: Path, model_dir: Path, store: CopyStore, on_progress: OnProgress) -> Summary:
    """Put the versions of a backup into a model directory, and then its jobs into Redis.

    Raises:
        InvalidBackupError: the file is no backup, or damaged.
        ConflictError: a version is there with other content.
        OSError: something cannot be read or written.
        RedisError: Redis does not answer. What was put in place until then stays.
    """
    files.make_root(model_dir)
    with unpack(path, model_dir, on_progress) as backup:
        _require_no_conflict(backup, model_dir)
        store.probe()
        summary = Summary()
        known = set(store.list_ids())
        _place_versions(backup, model_dir, summary)
        for job_id in backup.jobs:
            if job_id not in known and (states := backup.folder / "models" / saved.RUNS / job_id).is_dir():
                _move_files(states, saved.open_folder(model_dir, job_id))
        _place_choices(backup, model_dir, summary)
        for done, job_id in enumerate(backup.jobs, start=1):
            summary.jobs[store.restore(backup.read_job(job_id))] += 1
            on_progress("jobs", done, len(backup.jobs))
        for key in backup.keys:
            store.restore_key(key)
    return summary


def _require_no_conflict(backup: Unpacked, model_dir: Path) -> None:
    others = []
    for arch, number in backup.versions:
        ours, theirs = (root / arch / str(number) for root in (model_dir, backup.folder / "models"))
        if ours.exists() and _read_manifest(ours) != _read_manifest(theirs):
            others.append(f"{arch} {number}")
    if others:
        raise ConflictError(
            f"{model_dir} has other versions of the same numbers ({', '.join(others)}): "
            "restore into an empty directory, or delete them"
        )


def _read_manifest(folder: Path) -> bytes:
    try:
        return files.read(folder / MANIFEST, MAX_MANIFEST_BYTES)
    except (OSError, ValueError):
        return b""


def _place_versions(backup: Unpacked, model_dir: Path, summary: Summary) -> None:
    """Move the versions, what jobs have made, and the indexes. Numbers come first, so that nobody else takes them."""
    root = backup.folder / "models"
    for arch, chosen in backup.choices.items():
        publishing.require_writable(model_dir, arch)
        files.make_folder(model_dir / arch / versions.NUMBERS, exist_ok=True)
        for number in chosen.given:
            if _is_last(backup, model_dir, arch, number):
                summary.shown.add(f"{arch} {number}")
                continue
            files.make_folder(model_dir / arch / versions.NUMBERS / str(number), exist_ok=True)
    for arch, number in backup.versions:
        target = model_dir / arch / str(number)
        if target.exists():
            summary.versions_there += 1
        elif removal.is_removed(model_dir, arch, number):
            summary.removed.append(f"{arch} {number}")
        elif _is_last(backup, model_dir, arch, number):
            summary.shown.add(f"{arch} {number}")
        else:
            files.sync(root / arch / str(number))
            (root / arch / str(number)).rename(target)
            summary.versions += 1
        files.sync(model_dir / arch)
    for arch in ARCHS:
        if (made := root / arch / publishing.JOBS).is_dir():
            files.make_folder(model_dir / arch / publishing.JOBS, exist_ok=True)
            for one in made.iterdir():
                if not (target := model_dir / arch / publishing.JOBS / one.name).exists():
                    one.rename(target)
            files.sync(model_dir / arch / publishing.JOBS)
    if (indexes := root / seed_index.FOLDER).is_dir():
        files.make_folder(model_dir / seed_index.FOLDER, exist_ok=True)
        _move_files(indexes, model_dir / seed_index.FOLDER)


def _move_files(source: Path, target: Path) -> None:
    """Move those files of a folder whose names are free."""
    for path in source.iterdir():
        if not (target / path.name).exists():
            path.rename(target / path.name)
    files.sync(target)


def _place_choices(backup: Unpacked, model_dir: Path, summary: Summary) -> None:
    for arch, chosen in backup.choices.items():
        for number in chosen.removed:
            if not (model_dir / arch / str(number)).exists() and f"{arch} {number}" not in summary.shown:
                removal.mark(model_dir, arch, number)
        for number in chosen.hidden:
            if not _is_last(backup, model_dir, arch, number):
                choices.hide(model_dir, arch, number)
            else:
                summary.shown.add(f"{arch} {number}")
        ours = _read_pin(model_dir, arch)
        if ours is None and chosen.pinned:
            choices.pin(model_dir, arch, chosen.pinned)
        elif chosen.pinned and ours != chosen.pinned:
            summary.pins_there.append(arch)


def _is_last(backup: Unpacked, model_dir: Path, arch: str, number: int) -> bool:
    """Whether this is a shipped version that is shown, and no other one could draw: of here, or of the backup."""
    if not (shipped := versions.PRETRAINED / arch / str(number)).is_dir():
        return False
    shown = versions.find_folders(model_dir)
    if shown.get((arch, number)) != shipped:
        return False
    ours = [folder for key, folder in shown.items() if key[0] == arch and folder != shipped]
    theirs = [
        backup.folder / "models" / of / str(other)
        for of, other in backup.versions
        if of == arch and not removal.is_removed(model_dir, of, other)
    ]
    return not any(map(_can_draw, [*ours, *theirs]))


def _can_draw(folder: Path) -> bool:
    try:
        versions.read_generator(folder)
    except Exception:  # whatever it is, the service rejects the version, too
        return False
    return True


def _read_pin(model_dir: Path, arch: str) -> int | None:
    with contextlib.suppress(InvalidPinError):  # then that of the backup takes its place
        return choices.read_pin(model_dir, arch)
    return None
