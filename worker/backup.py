"""A backup of jobs and versions: one tar file, written while the service goes on.

    backup.json                            the format, and when it was made; the first one
    jobs/<id>.json, keys.json              a job with its events, at one moment; the idempotency keys
    models/.runs/<job>/state-<steps>.pt    the saved states of the jobs that have not ended
    models/<arch>/<version>/…              the versions; what is half published is left out
    models/<arch>/.jobs/<job>/…            which version a job has made, or that it can make none any more
    models/seed_index/<name>
    choices.json                           pins, hidden versions, and all numbers that were ever given
    SHA256SUMS                             of every file before it; the last one

The order makes it consistent: what is read later may know more than what was read before, and every run of a job
looks at the versions first. So a job that is running in the backup goes on from its last state, or finds the version
that it has made meanwhile.
"""

import contextlib
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from models import choices, publishing, removal, seed_index, versions
from models.archs import ARCHS
from models.choices import InvalidPinError
from models.manifest import FILES, MANIFEST
from worker import saved
from worker.copies import CopyStore
from worker.jobs import JobState

FORMAT = 1

HEAD, KEYS, CHOICES, SUMS = "backup.json", "keys.json", "choices.json", "SHA256SUMS"

OnProgress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


class Head(BaseModel):
    """``backup.json``."""

    model_config = ConfigDict(frozen=True)

    format: int
    created_at: datetime
    has_jobs: bool  # False: there was no Redis


Number = Annotated[int, Field(ge=1, le=999_999_999)]
Numbers = Annotated[list[Number], Field(max_length=1_000_000)]


class ArchChoices(BaseModel):
    """What ``choices.json`` has of an architecture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pinned: Number | None
    hidden: Numbers
    given: Numbers  # all that were ever given to a version
    removed: Numbers  # those of them whose version was removed on purpose


@dataclass
class Written:
    """What a backup has."""

    jobs: int = 0
    unfinished: int = 0  # of these jobs
    unreadable: list[str] = field(default_factory=list)  # ids of jobs that are left out
    unreadable_keys: int = 0  # idempotency keys that are left out
    versions: int = 0
    bytes: int = 0


def write(file: BinaryIO, model_dir: Path, store: CopyStore | None, on_progress: OnProgress) -> Written:
    """Write a backup to an open file; ``store``: None if there is no Redis.

    Raises:
        OSError: something cannot be read or written.
        RedisError: Redis does not answer.
    """
    written = Written()
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        archive = _Archive(tar)
        archive.add_json(HEAD, Head(format=FORMAT, created_at=datetime.now(UTC), has_jobs=store is not None))
        unfinished = _add_jobs(archive, store, written, on_progress) if store else []
        for job_id in unfinished:
            _add_states(archive, model_dir, job_id)
        _add_versions(archive, model_dir, written, on_progress)
        for path in seed_index.list_files(model_dir):
            if not path.name.startswith("."):
                archive.add_all({f"models/{seed_index.FOLDER}/{path.name}": path})
        archive.add_bytes(CHOICES, json.dumps({arch: _read_choices(model_dir, arch) for arch in ARCHS}).encode())
        archive.add_bytes(SUMS, "".join(f"{sum_}  {name}\n" for name, sum_ in archive.sums.items()).encode())
    written.bytes = file.tell()
    return written


def _add_jobs(archive: "_Archive", store: CopyStore, written: Written, on_progress: OnProgress) -> list[str]:
    """Add all jobs; return the ids of those that have not ended."""
    unfinished = []
    ids = store.list_ids()
    for done, job_id in enumerate(ids, start=1):
        try:
            copy = store.copy(job_id)
        except ValueError:
            written.unreadable.append(job_id)
            continue
        if copy:
            archive.add_json(f"jobs/{job_id}.json", copy)
            written.jobs += 1
            if copy.job.state in (JobState.QUEUED, JobState.RUNNING):
                unfinished.append(job_id)
        on_progress("jobs", done, len(ids))
    keys, written.unreadable_keys = store.copy_keys()
    archive.add_bytes(KEYS, json.dumps([key.model_dump() for key in keys]).encode())
    written.unfinished = len(unfinished)
    return unfinished


def _add_states(archive: "_Archive", model_dir: Path, job_id: str) -> None:
    """Add the states of a job, if it has any. When newer ones take their places meanwhile, add those."""
    while paths := saved.find_states(model_dir, job_id):
        if any([archive.add_all({f"models/{path.relative_to(model_dir)}": path}) for path in paths]):
            return


def _add_versions(archive: "_Archive", model_dir: Path, written: Written, on_progress: OnProgress) -> None:
    found = [
        model_dir / arch / str(number)
        for arch in ARCHS
        for number in versions.list_numbers(model_dir / arch)
        if versions.has_manifest(model_dir / arch / str(number))
    ]
    added = set()
    for done, folder in enumerate(found, start=1):
        name = f"models/{folder.parent.name}/{folder.name}"
        names = [one for one in (*FILES, MANIFEST) if one == MANIFEST or (folder / one).is_file()]
        if archive.add_all({f"{name}/{one}": folder / one for one in names}):
            added.add(folder)
        on_progress("versions", done, len(found))
    written.versions = len(added)
    for arch in ARCHS:
        for path in sorted((model_dir / arch / publishing.JOBS).glob("[!.]*/*")):
            if path.name == publishing.CLOSED or _fits(path, added):
                archive.add_all({f"models/{path.relative_to(model_dir)}": path})


def _fits(path: Path, added: set[Path]) -> bool:
    """Whether the version that a job has made is in the backup, or was removed.

    Otherwise it was published only now, and the job makes it again after a restore.
    """
    try:
        made = path.parents[2] / str(json.loads(path.read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):  # it is damaged, or has just gone
        return False
    return made in added or not made.exists()


def _read_choices(model_dir: Path, arch: str) -> dict[str, object]:
    try:
        pinned = choices.read_pin(model_dir, arch)
    except InvalidPinError:  # it is told by the service, and no loss
        pinned = None
    own = versions.list_numbers(model_dir / arch)
    given = sorted({*own, *versions.list_numbers(model_dir / arch / versions.NUMBERS)})
    return ArchChoices(
        pinned=pinned,
        hidden=versions.list_numbers(model_dir / arch / versions.HIDDEN),
        given=given,
        removed=[number for number in given if removal.is_removed(model_dir, arch, number)],
    ).model_dump()


class _Archive:
    """A tar file that is being written, and the sums of what is in it."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.sums: dict[str, str] = {}  # name → SHA-256

    def add_json(self, name: str, model: BaseModel) -> None:
        self.add_bytes(name, model.model_dump_json().encode())

    def add_bytes(self, name: str, data: bytes) -> None:
        self._add(name, io.BytesIO(data), len(data))

    def add_all(self, paths: dict[str, Path]) -> bool:
        """Add files of these names, or none of them if one has gone.

        All are opened before any is read. So a version that is removed meanwhile is in the backup as a whole, or not
        at all: its folder is renamed before a file goes, and its manifest is opened last.
        """
        with contextlib.ExitStack() as stack:
            try:
                opened = {name: stack.enter_context(path.open("rb")) for name, path in paths.items()}
            except (FileNotFoundError, NotADirectoryError):
                return False
            for name, file in opened.items():
                self._add(name, file, os.fstat(file.fileno()).st_size)
        return True

    def _add(self, name: str, file: IO[bytes], size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = size, int(time.time()), 0o644
        source = _Summed(file)
        self._tar.addfile(member, source)
        self.sums[name] = source.sum.hexdigest()


class _Summed(io.RawIOBase):
    """A file that is summed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sum.update(data)
        return data
