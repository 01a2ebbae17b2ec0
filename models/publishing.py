"""Publish a version by three renames, each of which is atomic.

1. The folder is written under a temporary name and renamed to its number. Of two hosts that want the
   same number, only one gets it.
2. ``<model dir>/<arch>/.jobs/<job>/`` appears with the manifest. Of two runs of one job, only one can
   make it, however long the other has slept. None can make it after the job was closed without a
   version. A training without a job skips this step.
3. The manifest gets its final name. Readers ignore folders without a manifest; now they see the version.

If a publisher dies after the second rename, the next run of the job does the third.
"""

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import shutil
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from models import files
from models.manifest import DISCRIMINATOR, FILES, GENERATOR, HISTORY, MANIFEST, SAMPLES, FileSum, Manifest, Origin
from models.versions import NUMBERS, PRETRAINED, list_numbers

logger = logging.getLogger(__name__)

JOBS = ".jobs"  # of each architecture: job → the manifest of the version that it made
_UNFINISHED = ".manifest.json"  # the manifest until its version is published
CLOSED = "closed"  # in place of a job's manifest: it has ended without a version


class JobClosedError(Exception):
    """The job has ended without a version and cannot get one any more; queue a new job."""


def require_writable(model_dir: Path, arch: str) -> None:
    """Fail before a training rather than after it.

    Raises:
        OSError: no version of ``arch`` can be published to ``model_dir``.
    """
    folder = model_dir / arch
    files.make_root(model_dir)
    files.make_folder(folder, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def publish(
    model_dir: Path,
    origin: Origin,
    *,
    generator: Mapping[str, Tensor],
    discriminator: Mapping[str, Tensor] | None,
    samples: Tensor,
    history: Sequence[Mapping[str, Any]],
    scratch: Path | None = None,
) -> Manifest:
    """Write a new version and return its manifest; its number was never given before in this directory.

    ``samples`` is ``[epochs, n, 28, 28]`` uint8, ``history`` has one mapping per epoch; an imported version
    may have neither a history nor a discriminator. Numbers of
    shipped versions are skipped, so (arch, version) names one generator. If another run of the same
    job has made a version already, that one is returned and nothing of this one is left.
    ``scratch`` is the folder to write in first, on the same file system as ``model_dir``.

    Raises:
        OSError: the directory cannot be written; nothing of the version is left.
        JobClosedError: the job has ended without a version; nothing of the version is left.
    """
    content = {
        GENERATOR: safetensors.torch.save(dict(generator)),
        **({} if discriminator is None else {DISCRIMINATOR: safetensors.torch.save(dict(discriminator))}),
        SAMPLES: _archive(samples),
        HISTORY: "".join(json.dumps(line) + "\n" for line in history).encode(),
    }
    sums = {name: FileSum(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in content.items()}
    require_writable(model_dir, origin.arch)
    arch_dir = model_dir / origin.arch
    folder = (scratch or arch_dir) / f".publishing-{uuid.uuid4().hex}"
    files.make_folder(folder)
    try:
        for name, data in content.items():
            files.write(folder / name, data)
        while True:
            version = _take_number(arch_dir)
            manifest = Manifest(**origin.model_dump(), version=version, files=sums)
            data = manifest.model_dump_json(indent=2).encode() + b"\n"
            files.write(folder / _UNFINISHED, data)
            files.sync(folder)
            if _rename(folder, arch_dir / str(version)):  # False: an earlier release does not ask for numbers
                break
        folder = arch_dir / str(version)
        files.sync(arch_dir)
        first = origin.job is None or _write_once(arch_dir / JOBS, origin.job, MANIFEST, data)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not first:
        shutil.rmtree(folder, ignore_errors=True)  # the winner may be emptying it just now
        winner = finish_publication(model_dir, origin.arch, str(origin.job))
        if winner is None:
            raise JobClosedError(f"job {origin.job} has ended without a version")
        return winner
    _show(folder)
    if origin.job is not None:
        files.sync(arch_dir / JOBS)
        _empty_unfinished(arch_dir, origin.job)
    return manifest


def finish_publication(model_dir: Path, arch: str, job: str) -> Manifest | None:
    """The version that a job has made, or None. From now on readers see it.

    Raises:
        OSError: the directory cannot be read.
    """
    try:
        content = (model_dir / arch / JOBS / job / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    manifest = Manifest.model_validate_json(content)
    _show(model_dir / arch / str(manifest.version))
    return manifest


def close_job(model_dir: Path, arch: str, job: str) -> Manifest | None:
    """Let no run of a job publish from now on; return the version if one has published before.

    Raises:
        OSError: the directory cannot be written.
    """
    require_writable(model_dir, arch)
    arch_dir = model_dir / arch
    _write_once(arch_dir / JOBS, job, CLOSED, b"")
    files.sync(arch_dir / JOBS)
    _empty_unfinished(arch_dir, job)
    return finish_publication(model_dir, arch, job)


def _take_number(arch_dir: Path) -> int:
    """The next number, which nobody gets again: addresses name it, and caches keep what it meant.

    Raises:
        OSError: it cannot be recorded.
    """
    given = arch_dir / NUMBERS
    files.make_folder(given, exist_ok=True)
    number = 1 + max(
        [*list_numbers(PRETRAINED / arch_dir.name), *list_numbers(arch_dir), *list_numbers(given)], default=0
    )
    while True:
        try:
            files.make_folder(given / str(number))  # of two hosts, one can do this
        except FileExistsError:
            number += 1
        else:
            files.sync(given)
            return number


def _show(folder: Path) -> None:
    """Let readers see a version. Several publishers may do this for the same version."""
    with contextlib.suppress(FileNotFoundError):
        (folder / _UNFINISHED).rename(folder / MANIFEST)
        files.sync(folder)


def _write_once(jobs: Path, job: str, name: str, data: bytes) -> bool:
    """Make the folder with a job's id, with one file in it; False if another run has made it.

    Raises:
        OSError: the file cannot be written; then there is no such folder.
    """
    temporary = jobs / f".{uuid.uuid4().hex}"
    files.make_folder(jobs, exist_ok=True)
    files.make_folder(temporary)
    try:
        files.write(temporary / name, data)
        files.sync(temporary)
        return _rename(temporary, jobs / job)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _empty_unfinished(arch_dir: Path, job: str) -> None:
    """Delete the files that other runs of a job have left: they cannot be published any more.

    Their folders stay, so that no other version gets their number. A run that has only slept will
    remove its own folder by that number.
    """
    for number in list_numbers(arch_dir):
        unfinished = arch_dir / str(number) / _UNFINISHED
        try:
            if unfinished.is_file() and json.loads(unfinished.read_bytes())["job"] == job:
                for name in FILES:
                    (unfinished.parent / name).unlink(missing_ok=True)
        except (OSError, ValueError, KeyError, TypeError) as error:  # the version of this job is published in any case
            logger.warning("cannot look at %s: %s", unfinished, error)


def _archive(samples: Tensor) -> bytes:
    """As ``np.savez_compressed``, but a quarter smaller: LZMA, and a pixel's values of all epochs in a row."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as members, members.open("images.npy", "w") as images:
        np.lib.format.write_array(images, np.asfortranarray(samples.numpy()), allow_pickle=False)
    return archive.getvalue()


def _rename(temporary: Path, target: Path) -> bool:
    """Rename a folder; False if another one has taken the name."""
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
