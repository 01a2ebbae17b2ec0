"""The on-disk format of a version: publish, list, read.

A version is the immutable folder ``<model dir>/<arch>/<version>/`` of :data:`FILES` and
``manifest.json``. It comes to be in three renames, each of which happens whole or not at all:

1. the folder, written under a temporary name, gets its number; of two hosts one can win it;
2. ``<model dir>/<arch>/.jobs/<job>/`` appears with the manifest: of two runs of one job, one can
   win it, however long the other has slept (a training without a job leaves this out), and none
   after the job has been closed without a version;
3. the manifest gets its name, and readers, to whom a folder without one does not exist, see it.

A publisher that dies after the second one is helped by the next run of the job. The versions
that come with the code are in :data:`PRETRAINED`, in the same format.

Weights are safetensors, samples an array archive read without pickle: nothing that is read here
can run code. Every file is checked against its size and sum before it is used.
"""

import contextlib
import errno
import hashlib
import io
import json
import logging
import lzma
import math
import os
import shutil
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, PositiveInt, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from models import classifier, files
from models.archs import ARCHS
from models.sampling import LATENTS

logger = logging.getLogger(__name__)

PRETRAINED = Path(__file__).parent / "pretrained"

GENERATOR, DISCRIMINATOR = "generator.safetensors", "discriminator.safetensors"
SAMPLES, HISTORY, MANIFEST = "samples.npz", "history.jsonl", "manifest.json"
FILES = (GENERATOR, DISCRIMINATOR, SAMPLES, HISTORY)

SCHEMA_VERSION = 1

_JOBS = ".jobs"  # of one architecture: job → the manifest of the version that it made
_UNFINISHED = ".manifest.json"  # the manifest until its version is published
_CLOSED = "closed"  # in place of a job's manifest: it has ended without a version


class InvalidVersionError(Exception):
    """A folder is not a whole, intact version of a known schema; the message is the reason."""


class JobClosedError(Exception):
    """The job has ended without a version and cannot have one any more."""


class Origin(BaseModel):
    """How a version was made: enough to rebuild its networks and to run the training again."""

    model_config = ConfigDict(frozen=True)

    arch: str
    latent_shape: tuple[int, ...]
    latents: str  # a row of models.sampling.LATENTS
    recipe: dict[str, Any]  # every hyperparameter
    seed: int
    epochs: int  # finished
    dataset: str
    dataset_sha256: str
    device: str
    threads: int
    bfloat16: bool = False  # were the products of its training in bfloat16, or in float32?
    torch: str
    wall_seconds: float
    created_at: datetime
    command: str
    job: str | None = None
    metrics: dict[str, FiniteFloat] = {}  # those of models.metrics.measure
    floors: dict[str, FiniteFloat] = {}  # the same of real training images
    classifier_sha256: str | None = None  # the features in which they were measured


class FileSum(BaseModel):
    """Size and sum of one file of a version."""

    bytes: int
    sha256: str


class Manifest(Origin):
    """``manifest.json``: how a version was made, and the sums of its files."""

    schema_version: Literal[1] = 1
    version: PositiveInt
    files: dict[str, FileSum]

    def preference(self) -> tuple[float, int, int]:
        """Sorts the best last: by FID; without one by epochs, so that no short trial comes first.

        An FID in the features of another classifier than the present one cannot be compared.
        """
        comparable = self.classifier_sha256 == classifier.sha256()
        fid = self.metrics.get("fid", math.inf) if comparable else math.inf
        return -fid, self.epochs, self.version


def folders(model_dir: Path) -> dict[tuple[str, int], Path]:
    """(arch, version) → folder, of all versions that have a manifest, shipped ones included."""
    found: dict[tuple[str, int], Path] = {}
    for root in (PRETRAINED, model_dir):
        for arch in ARCHS:
            for version in _numbers(root / arch):
                folder = root / arch / str(version)
                if (folder / MANIFEST).is_file():
                    found[arch, version] = folder
    return dict(sorted(found.items()))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of ``<arch>/<version>``, without looking at the files it names.

    Raises:
        InvalidVersionError: it is missing, damaged, of another schema, or of another folder.
    """
    try:
        raw = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidVersionError(f"{MANIFEST} cannot be read: {error}") from error
    schema = raw.get("schema_version") if isinstance(raw, dict) else None
    if schema != SCHEMA_VERSION:
        raise InvalidVersionError(f"unknown schema version {schema!r}; this release reads {SCHEMA_VERSION}")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidVersionError(f"{MANIFEST}: {field}: {first['msg']}") from error
    if (manifest.arch, str(manifest.version)) != (folder.parent.name, folder.name):
        raise InvalidVersionError(f"{MANIFEST} is of {manifest.arch} version {manifest.version}, not of this folder")
    return manifest


def read_generator(folder: Path) -> tuple[Manifest, nn.Sequential]:
    """A verified version: its manifest and its generator, on the CPU, in eval mode.

    Every file of the version is checked, so that a damaged one is found when it appears.

    Raises:
        InvalidVersionError: something is missing, damaged, or does not fit the architecture.
    """
    manifest = read_manifest(folder)
    content = {name: _verified(folder, manifest, name) for name in FILES}
    arch = ARCHS[manifest.arch]
    if manifest.latents not in LATENTS:
        raise InvalidVersionError(f"unknown distribution of latents {manifest.latents!r}")
    if manifest.latent_shape != arch.latent_shape:
        raise InvalidVersionError(f"latent shape {manifest.latent_shape}, expected {arch.latent_shape}")
    G = arch.generator()
    try:
        weights = safetensors.torch.load(content[GENERATOR])
        G.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise InvalidVersionError(f"{GENERATOR} does not fit {arch.name}: {error}") from error
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise InvalidVersionError(f"{GENERATOR} holds values that are not finite")
    return manifest, G.eval().requires_grad_(False)


def read_samples(folder: Path) -> Tensor:
    """The images of the same latents after each epoch: ``[epochs, n, 28, 28]`` uint8.

    Raises:
        InvalidVersionError: the version is damaged.
    """
    content = _verified(folder, read_manifest(folder), SAMPLES)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return torch.from_numpy(archive["images"]).contiguous()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise InvalidVersionError(f"{SAMPLES} cannot be read: {error}") from error


def read_history(folder: Path) -> list[dict[str, Any]]:
    """What was recorded of each epoch.

    Raises:
        InvalidVersionError: the version is damaged.
    """
    content = _verified(folder, read_manifest(folder), HISTORY)
    try:
        return [json.loads(line) for line in content.splitlines()]
    except ValueError as error:
        raise InvalidVersionError(f"{HISTORY} cannot be read: {error}") from error


def require_writable(model_dir: Path, arch: str) -> None:
    """Fail before a training rather than after it.

    Raises:
        OSError: no version of ``arch`` could be published to ``model_dir``.
    """
    folder = model_dir / arch
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def published(model_dir: Path, arch: str, job: str) -> Manifest | None:
    """The version that a job has made; readers see it from now on, if they did not yet.

    Raises:
        OSError: the directory cannot be read.
    """
    try:
        content = (model_dir / arch / _JOBS / job / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    manifest = Manifest.model_validate_json(content)
    _show(model_dir / arch / str(manifest.version))
    return manifest


def close(model_dir: Path, arch: str, job: str) -> Manifest | None:
    """Let no run of a job publish from now on; the version, where one has done so before.

    Raises:
        OSError: the directory cannot be written.
    """
    arch_dir = model_dir / arch
    _taken(arch_dir / _JOBS, job, _CLOSED, b"")
    files.sync(arch_dir / _JOBS)
    _empty_unfinished(arch_dir, job)
    return published(model_dir, arch, job)


def publish(
    model_dir: Path,
    origin: Origin,
    *,
    generator: Mapping[str, Tensor],
    discriminator: Mapping[str, Tensor],
    samples: Tensor,
    history: Sequence[Mapping[str, Any]],
    scratch: Path | None = None,
) -> Manifest:
    """Write a new version and return its manifest; its number is the next free one.

    ``samples`` is ``[epochs, n, 28, 28]`` uint8, ``history`` one mapping an epoch. Numbers of
    shipped versions are left out, so (arch, version) names one generator. Where another run of
    the same job has made a version, that one is returned and nothing is left of this one.
    ``scratch`` is the folder to write in first, on the same file system as ``model_dir``.

    Raises:
        OSError: the directory cannot be written; nothing of the version is left then.
        JobClosedError: the job has ended without a version; nothing is left either.
    """
    content = {
        GENERATOR: safetensors.torch.save(dict(generator)),
        DISCRIMINATOR: safetensors.torch.save(dict(discriminator)),
        SAMPLES: _archive(samples),
        HISTORY: "".join(json.dumps(line) + "\n" for line in history).encode(),
    }
    sums = {name: FileSum(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in content.items()}
    require_writable(model_dir, origin.arch)
    arch_dir = model_dir / origin.arch
    folder = (scratch or arch_dir) / f".publishing-{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        for name, data in content.items():
            files.write(folder / name, data)
        version = 1 + max([*_numbers(PRETRAINED / origin.arch), *_numbers(arch_dir)], default=0)
        while True:
            manifest = Manifest(**origin.model_dump(), version=version, files=sums)
            data = manifest.model_dump_json(indent=2).encode() + b"\n"
            files.write(folder / _UNFINISHED, data)
            files.sync(folder)
            if _renamed(folder, arch_dir / str(version)):
                break
            version += 1
        folder = arch_dir / str(version)
        files.sync(arch_dir)
        first = origin.job is None or _taken(arch_dir / _JOBS, origin.job, MANIFEST, data)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not first:
        shutil.rmtree(folder, ignore_errors=True)  # the winner may be emptying it just now
        winner = published(model_dir, origin.arch, str(origin.job))
        if winner is None:
            raise JobClosedError(f"job {origin.job} has ended without a version")
        return winner
    _show(folder)
    if origin.job is not None:
        files.sync(arch_dir / _JOBS)
        _empty_unfinished(arch_dir, origin.job)
    return manifest


def _show(folder: Path) -> None:
    """Let readers see a version; more than one publisher may."""
    with contextlib.suppress(FileNotFoundError):
        (folder / _UNFINISHED).rename(folder / MANIFEST)
        files.sync(folder)


def _taken(jobs: Path, job: str, name: str, data: bytes) -> bool:
    """Write a file, alone in a folder, under a job's id; False when another run has.

    Raises:
        OSError: it cannot be written; nothing stands under the job's id then.
    """
    temporary = jobs / f".{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        files.write(temporary / name, data)
        files.sync(temporary)
        return _renamed(temporary, jobs / job)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _empty_unfinished(arch_dir: Path, job: str) -> None:
    """Drop the weights that other runs of a job have left, none of which can be published any more.

    Their folders stay: a run that has only slept removes its own, and shall not meet another's.
    """
    for number in _numbers(arch_dir):
        unfinished = arch_dir / str(number) / _UNFINISHED
        try:
            if unfinished.is_file() and json.loads(unfinished.read_bytes())["job"] == job:
                for name in FILES:
                    (unfinished.parent / name).unlink(missing_ok=True)
        except (OSError, ValueError, KeyError, TypeError) as error:  # the version of this job stands all the same
            logger.warning("cannot look at %s: %s", unfinished, error)


def _archive(samples: Tensor) -> bytes:
    """As ``np.savez_compressed``, a quarter smaller: by LZMA, and each pixel of all epochs in a row."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as members, members.open("images.npy", "w") as images:
        np.lib.format.write_array(images, np.asfortranarray(samples.numpy()), allow_pickle=False)
    return archive.getvalue()


def _numbers(arch_dir: Path) -> list[int]:
    """The version numbers taken in a folder, valid versions or not."""
    try:
        names = os.listdir(arch_dir)
    except OSError:  # not there yet, or not to be read
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0")


def _renamed(temporary: Path, target: Path) -> bool:
    """Rename a folder; False when another one has taken the name."""
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def _verified(folder: Path, manifest: Manifest, name: str) -> bytes:
    expected = manifest.files.get(name)
    if expected is None:
        raise InvalidVersionError(f"{MANIFEST} does not list {name}")
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise InvalidVersionError(f"{name} cannot be read: {error.strerror}") from error
    if len(data) != expected.bytes:
        raise InvalidVersionError(f"{name} has {len(data)} bytes, expected {expected.bytes}: truncated?")
    if hashlib.sha256(data).hexdigest() != expected.sha256:
        raise InvalidVersionError(f"{name} has another sha256 than {MANIFEST} says")
    return data
