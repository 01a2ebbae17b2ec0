"""Unpack a backup into a folder of its own, and check all of it. Nothing in it is run or unpickled."""

import contextlib
import hashlib
import io
import re
import shutil
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from models import files, publishing, removal, seed_index, versions
from models.archs import ARCHS
from models.manifest import FILES, MANIFEST, MAX_FILE_BYTES, MAX_MANIFEST_BYTES
from worker.backup import CHOICES, FORMAT, HEAD, KEYS, SUMS, ArchChoices, Head, OnProgress
from worker.copies import JobCopy, KeyCopy

T = TypeVar("T")

_ID, _NUMBER = "[A-Za-z0-9-]{1,64}", "[1-9][0-9]{0,8}"
_ARCH = f"(?:{'|'.join(ARCHS)})"
_MIB = 2**20

# The names that a backup may have, and how many bytes such a file has at most.
_NAMES: Mapping[str, int] = {
    re.escape(HEAD): _MIB,
    f"jobs/{_ID}\\.json": 64 * _MIB,
    re.escape(KEYS): 256 * _MIB,
    f"models/\\.runs/{_ID}/state-[0-9]{{9,12}}\\.pt": 2**32,
    f"models/{_ARCH}/{_NUMBER}/(?:{'|'.join(map(re.escape, FILES))})": MAX_FILE_BYTES,
    f"models/{_ARCH}/{_NUMBER}/{re.escape(MANIFEST)}": MAX_MANIFEST_BYTES,
    f"models/{_ARCH}/\\.jobs/{_ID}/(?:{re.escape(MANIFEST)}|{publishing.CLOSED})": MAX_MANIFEST_BYTES,
    f"models/{seed_index.FOLDER}/[A-Za-z0-9-]{{1,200}}": _MIB,
    re.escape(CHOICES): 64 * _MIB,
    re.escape(SUMS): 256 * _MIB,
}
_CHUNK = _MIB


class InvalidBackupError(Exception):
    """The file is no backup, or a damaged one; nothing was changed. Use another one."""


@dataclass(frozen=True)
class Unpacked:
    """A backup that was read and checked."""

    folder: Path
    jobs: list[str]  # ids
    keys: list[KeyCopy]
    choices: dict[str, ArchChoices]

    @property
    def versions(self) -> list[tuple[str, int]]:
        root = self.folder / "models"
        return [(arch, number) for arch in ARCHS for number in versions.list_numbers(root / arch)]

    def read_job(self, job_id: str) -> JobCopy:
        """A job of the backup. It was checked before."""
        return JobCopy.model_validate_json((self.folder / "jobs" / f"{job_id}.json").read_bytes())


@contextlib.contextmanager
def unpack(path: Path, model_dir: Path, on_progress: OnProgress) -> Iterator[Unpacked]:
    """A checked backup, in a folder of its own inside the model directory, which is removed afterwards."""
    folder = model_dir / f"{removal.RESTORING}{uuid.uuid4().hex}"
    try:
        files.make_folder(folder)
        try:
            sums = _unpack_all(path, folder, on_progress)
        except RecursionError as error:
            raise InvalidBackupError("too many headers follow each other") from error
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise InvalidBackupError(f"it cannot be read to its end: {error}") from error
        _check_sums(folder, sums)
        yield _read(folder, sums)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack_all(path: Path, folder: Path, on_progress: OnProgress) -> dict[str, str]:
    """Unpack every file; return the sum of each. The first name decides whether it is a backup at all."""
    sums: dict[str, str] = {}
    size = path.stat().st_size
    with _Source(io.FileIO(path)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if not sums and member.name != HEAD:
                raise InvalidBackupError(f"it does not begin with {HEAD}")
            if SUMS in sums:
                raise InvalidBackupError(f"{member.name!r} comes after {SUMS}")
            if member.name in sums:
                raise InvalidBackupError(f"{member.name!r} is in it twice")
            sums[member.name] = _unpack_one(tar, member, folder)
            if member.name == HEAD:
                _check_head(folder)
            on_progress("reading", file.tell(), size)
    return sums


class _Source(io.BufferedReader):
    """A file of which at most a MiB is read at once: tarfile would read a header of any size into memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes is too large")
        return super().read(size)


def _unpack_one(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> str:
    """Unpack one file and return its SHA-256. Only regular files of known names and sizes are."""
    most = next((bytes_ for name, bytes_ in _NAMES.items() if re.fullmatch(name, member.name)), None)
    if most is None or member.type != tarfile.REGTYPE or member.issparse():
        raise InvalidBackupError(f"{member.name[:200]!r} does not belong into a backup")
    if not 0 <= member.size <= most:
        raise InvalidBackupError(f"{member.name} has {member.size} bytes, more than {most}")
    safe = tarfile.data_filter(member, str(folder))
    target = folder / safe.name
    _make_folders(target.parent, folder)
    source = tar.extractfile(safe)
    assert source
    digest, left = hashlib.sha256(), member.size
    with target.open("xb") as file:
        while left:
            data = source.read(min(_CHUNK, left))
            if not data:
                raise InvalidBackupError(f"it ends within {member.name}")
            digest.update(data)
            file.write(data)
            left -= len(data)
    files.settle(target)
    return digest.hexdigest()


def _make_folders(path: Path, root: Path) -> None:
    for parent in [*reversed(path.relative_to(root).parents), path.relative_to(root)][1:]:
        files.make_folder(root / parent, exist_ok=True)


def _check_head(folder: Path) -> None:
    head = _parse(TypeAdapter(Head), folder / HEAD)
    if head.format != FORMAT:
        raise InvalidBackupError(f"it has format {head.format}; this release reads {FORMAT}")


def _check_sums(folder: Path, sums: dict[str, str]) -> None:
    if SUMS not in sums:
        raise InvalidBackupError(f"it has no {SUMS}: it is not whole")
    del sums[SUMS]
    lines = (folder / SUMS).read_text(errors="replace").splitlines()
    said = {name: sum_ for sum_, _, name in (line.partition("  ") for line in lines)}
    for name in sorted(said.keys() | sums.keys()):
        if name not in sums:
            raise InvalidBackupError(f"{name} is missing")
        if said.get(name) != sums[name]:
            raise InvalidBackupError(f"{name} has another sha256 than {SUMS} says")


def _read(folder: Path, sums: Mapping[str, str]) -> Unpacked:
    """Check what the files say."""
    jobs = [name.removeprefix("jobs/").removesuffix(".json") for name in sums if name.startswith("jobs/")]
    for job_id in jobs:
        path = folder / "jobs" / f"{job_id}.json"
        if _parse(TypeAdapter(JobCopy), path).job.id != job_id:
            raise InvalidBackupError(f"jobs/{path.name} is another job")
    for arch in ARCHS:
        for number in versions.list_numbers(folder / "models" / arch):
            if not (folder / "models" / arch / str(number) / MANIFEST).is_file():
                raise InvalidBackupError(f"version {number} of {arch} has no {MANIFEST}")
    if CHOICES not in sums:
        raise InvalidBackupError(f"{CHOICES} is missing")
    chosen = _parse(TypeAdapter(dict[str, ArchChoices]), folder / CHOICES)
    for arch in ARCHS:
        if arch not in chosen and (folder / "models" / arch).exists():
            raise InvalidBackupError(f"{CHOICES} says nothing of {arch}")
    keys = _parse(TypeAdapter(list[KeyCopy]), folder / KEYS) if KEYS in sums else []
    return Unpacked(folder, jobs, keys, {arch: chosen[arch] for arch in ARCHS if arch in chosen})


def _parse(adapter: TypeAdapter[T], path: Path) -> T:
    try:
        return adapter.validate_json(path.read_bytes())
    except (ValidationError, RecursionError) as error:
        first: Any = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": error}
        where = "".join(f".{part}" for part in first["loc"])
        raise InvalidBackupError(f"{path.name}{where}: {first['msg']}") from error
