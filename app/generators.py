"""The versions in memory: found in the model directory, verified, warmed, swapped in while running.

A version that cannot be used is kept as rejected, with the reason, and looked at again when its
files change; whatever was loaded before stays.
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

Signature = tuple[tuple[str, int, int, int], ...]  # of each file: name, inode, size, mtime in ns


class UnknownVersionError(Exception):
    """No version answers to that name, or it is rejected. Choose one of ``loaded``, or train one."""

    def __init__(self, message: str, *, field: str = "version", loaded: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.field = field  # of the request: version or arch
        self.loaded = list(loaded)


class State(StrEnum):
    """Whether a version can be drawn from."""

    LOADED = "loaded"
    REJECTED = "rejected"


class Source(StrEnum):
    """Where a version is from."""

    SHIPPED = "shipped"  # with the code
    TRAINED = "trained"  # here, or on another host that shares the model directory


@dataclass(frozen=True, eq=False)
class LoadedVersion:
    """A version that is ready to draw; equal to itself alone."""

    manifest: Manifest
    inference: Inference

    def draw(self, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """``[len(seeds), 28, 28]``, one a seed; at most ``inference.BATCH``. Safe in several threads."""
        return self.inference(sampling.make_latents(seeds, self.manifest.latent_shape, self.manifest.latents)).numpy()


@dataclass(frozen=True)
class Entry:
    """A version's folder as it was last looked at."""

    arch: str
    version: int
    source: Source
    signature: Signature
    loaded: LoadedVersion | None
    problem: str | None  # why it is rejected, or what has happened to its files since it was loaded
    is_default: bool = False  # it answers where a request names no version

    @property
    def state(self) -> State:
        return State.LOADED if self.loaded else State.REJECTED


@dataclass(frozen=True)
class _Snapshot:
    """All versions at one moment, and which of them answers to what a request may say."""

    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    answering: dict[tuple[str, str | None], LoadedVersion] = field(default_factory=dict)


class Generators:
    """All versions of one model directory and the shipped ones. Reading it needs no lock."""

    def __init__(self, model_dir: Path, device: torch.device) -> None:
        self._model_dir = model_dir
        self._device = device
        self._looking = threading.Lock()
        self._looked = -math.inf  # when the last look began
        self._snapshot = _Snapshot()

    @property
    def entries(self) -> list[Entry]:
        """By architecture and version."""
        return list(self._snapshot.entries.values())

    def refresh(self) -> None:
        """Look at the directory: load what is new or changed, forget what is gone.

        Those who call it while somebody looks share one look after that.
        """
        called = time.monotonic()
        with self._looking:
            if self._looked > called:
                return
            self._looked = time.monotonic()
            folders = versions.find_folders(self._model_dir)
            self._snapshot = _compose([self._look(key, folder) for key, folder in folders.items()])

    async def look_again(self) -> None:
        """:meth:`refresh` off the event loop; while the directory cannot be read, what is loaded stays."""
        try:
            await asyncio.to_thread(self.refresh)
        except Exception:
            logger.exception("cannot look at the model directory")

    async def find(self, get: Callable[[str, str | None], T], arch: str, version: str | None) -> T:
        """:meth:`get` or :meth:`get_entry`, and once more after a look at the directory where it finds none.

        A version that is asked for by its number may be a moment old.

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
        """The version of a number, or the ``latest``; None for the default: the best.

        Raises:
            UnknownVersionError: there is no such version, or it is rejected.
        """
        if found := self._snapshot.answering.get((arch, version)):
            return found
        if version is None or version == LATEST:
            raise UnknownVersionError(f"no version of {arch} is loaded", field="arch")
        entry = self.get_entry(arch, version)
        raise UnknownVersionError(f"version {version} of {arch} is rejected: {entry.problem}")

    def get_entry(self, arch: str, version: str | None) -> Entry:
        """What is known of a version, loaded or not.

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
        except Exception as error:  # one bad folder must not keep the others from being found
            problem = str(error) if isinstance(error, InvalidVersionError) else f"{type(error).__name__}: {error}"
            logger.warning("rejected %s version %d: %s", arch, version, problem)
        source = Source.SHIPPED if versions.PRETRAINED in folder.parents else Source.TRAINED
        return Entry(arch, version, source, signature, loaded, problem)


def _compose(entries: Sequence[Entry]) -> _Snapshot:
    """What answers to each architecture and version: a number, ``latest``, or None for the best."""
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
    """What changes when a file of the folder does."""
    found = []
    for name in (manifest.MANIFEST, *manifest.FILES):
        try:
            stat = (folder / name).stat()
        except OSError:
            continue
        found.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)
