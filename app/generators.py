"""The versions in memory: found in the model directory, verified, warmed up, swapped in while running.

A version that cannot be used is listed as rejected, with the reason, and is read again when its files
change. If the files of a loaded version are damaged later, the loaded version stays in use.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from models import classifier, manifest, sampling, versions
from models.inference import Inference
from models.manifest import InvalidVersionError, Manifest

logger = logging.getLogger(__name__)

T = TypeVar("T")

LATEST = "latest"

Signature = tuple[tuple[str, int, int, int, int], ...]  # of each file: name, inode, size, mtime and ctime in ns


class UnknownVersionError(Exception):
    """The version does not exist or is rejected; choose one of ``loaded``, or train one."""

    def __init__(self, message: str, *, field: str = "version", loaded: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.field = field  # the wrong field of the request: version or arch
        self.loaded = list(loaded)


class EntryState(StrEnum):
    """Whether a version can draw."""

    LOADED = "loaded"
    REJECTED = "rejected"


class Source(StrEnum):
    """Where a version comes from."""

    SHIPPED = "shipped"  # with the code
    TRAINED = "trained"  # here, or on another host that shares the model directory


@dataclass(frozen=True, eq=False)
class LoadedVersion:
    """A version that is ready to draw. It is equal only to itself."""

    manifest: Manifest
    inference: Inference

    def draw(self, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """One image per seed, ``[len(seeds), 28, 28]``; at most ``inference.BATCH`` seeds. Thread-safe."""
        return self.inference(sampling.make_latents(seeds, self.manifest.latent_shape, self.manifest.latents)).numpy()


@dataclass(frozen=True)
class Entry:
    """What was found when a version's folder was last read."""

    arch: str
    version: int
    source: Source
    signature: Signature
    loaded: LoadedVersion | None
    problem: str | None  # why it is rejected, or what happened to its files after it was loaded
    is_default: bool = False  # it is used if a request names no version

    @property
    def state(self) -> EntryState:
        return EntryState.LOADED if self.loaded else EntryState.REJECTED


@dataclass(frozen=True)
class _Snapshot:
    """All versions at one moment, and which one a request's (arch, version) means."""

    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    answering: dict[tuple[str, str | None], LoadedVersion] = field(default_factory=dict)


class Generators:
    """All versions of one model directory, and the shipped ones. Readers need no lock."""

    def __init__(self, model_dir: Path, device: torch.device) -> None:
        self._model_dir = model_dir
        self._device = device
        self._looking = threading.Lock()
        self._looked = -math.inf  # when the last refresh began
        self._snapshot = _Snapshot()
        self.problem: str | None = None  # why the model directory cannot be listed
        if not model_dir.exists():
            logger.info("%s does not exist yet: until it does, only the shipped versions draw", model_dir)

    @property
    def entries(self) -> list[Entry]:
        """All versions, sorted by architecture and number."""
        return list(self._snapshot.entries.values())

    def refresh(self) -> None:
        """Read the directory: load new and changed versions, forget removed ones.

        All callers that arrive during a refresh share the next one.
        """
        called = time.monotonic()
        with self._looking:
            if self._looked > called:
                return
            self._looked = time.monotonic()
            if (problem := versions.find_problem(self._model_dir)) != self.problem:
                logger.warning("%s", problem or f"{self._model_dir} can be read again")
                self.problem = problem
            folders = versions.find_folders(self._model_dir)
            self._snapshot = _compose([self._look(key, folder) for key, folder in folders.items()])

    async def look_again(self) -> None:
        """:meth:`refresh` off the event loop. If the directory cannot be read, all loaded versions stay."""
        try:
            await asyncio.to_thread(self.refresh)
        except Exception:
            logger.exception("cannot read the model directory")

    async def find(self, get: Callable[[str, str | None], T], arch: str, version: str | None) -> T:
        """Call ``get``: :meth:`get` or :meth:`get_entry`. If it finds nothing, refresh and call it again.

        The refresh finds a numbered version that was published a moment ago.

        Raises:
            UnknownVersionError: as ``get``.
        """
        try:
            return get(arch, version)
        except UnknownVersionError:
            if version is None or version == LATEST:
                raise
        await self.look_again()
        return get(arch, version)

    def get(self, arch: str, version: str | None = None) -> LoadedVersion:
        """The version with this number, or the ``latest`` one. None means the default: the best one.

        Raises:
            UnknownVersionError: there is no such version, or it is rejected.
        """
        if found := self._snapshot.answering.get((arch, version)):
            return found
        if version is None or version == LATEST:
            raise UnknownVersionError(f"no version of {arch} is loaded", field="arch")
        entry = self.get_entry(arch, version)
        if entry.loaded:  # since a moment ago
            return entry.loaded
        raise UnknownVersionError(f"version {version} of {arch} is rejected: {entry.problem}")

    def get_entry(self, arch: str, version: str | None) -> Entry:
        """What is known about a version, loaded or not.

        Raises:
            UnknownVersionError: there is no such version.
        """
        if version == LATEST:
            version = str(self.get(arch, LATEST).manifest.version)
        of_arch = [entry for entry in self.entries if entry.arch == arch]
        for entry in of_arch:
            if str(entry.version) == version:
                return entry
        loaded = [entry.version for entry in of_arch if entry.loaded]
        raise UnknownVersionError(f"{arch} has no version {version}", loaded=loaded)

    def _look(self, key: tuple[str, int], folder: Path) -> Entry:
        arch, version = key
        before = self._snapshot.entries.get(key)
        signature = _sign(folder)
        if before and before.signature == signature:
            return before
        loaded, problem = before.loaded if before else None, None
        try:
            said, network = versions.read_generator(folder)
            loaded = LoadedVersion(said, Inference(network, said.latent_shape, self._device))
            logger.info("loaded %s version %d", arch, version)
        except Exception as error:  # one bad folder must not hide the others
            problem = str(error) if isinstance(error, InvalidVersionError) else f"{type(error).__name__}: {error}"
            logger.warning("rejected %s version %d: %s", arch, version, problem)
        source = Source.SHIPPED if versions.PRETRAINED in folder.parents else Source.TRAINED
        return Entry(arch, version, source, signature, loaded, problem)


def _compose(entries: Sequence[Entry]) -> _Snapshot:
    """The snapshot in which each architecture has its numbers, ``latest``, and None for the best version."""
    present = classifier.sha256()
    loaded = [entry.loaded for entry in entries if entry.loaded]
    by_preference = sorted(loaded, key=lambda one: one.manifest.rank(present))
    by_number = sorted(loaded, key=lambda one: one.manifest.version)
    best = {one.manifest.arch: one for one in by_preference}
    defaults = set(best.values())
    return _Snapshot(
        entries={(one.arch, one.version): replace(one, is_default=one.loaded in defaults) for one in entries},
        answering={
            **{(one.manifest.arch, str(one.manifest.version)): one for one in loaded},
            **{(one.manifest.arch, LATEST): one for one in by_number},
            **{(arch, None): one for arch, one in best.items()},
        },
    )


def _sign(folder: Path) -> Signature:
    """A value that changes when a file of the folder changes."""
    found = []
    for name in (manifest.MANIFEST, *manifest.FILES):
        try:
            stat = (folder / name).stat()
        except OSError:
            continue
        found.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(found)
