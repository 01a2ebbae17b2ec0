"""The versions in memory: found in the model directory, verified, warmed, swapped in while running.

A version that cannot be used is kept as rejected, with the reason, and looked at again when its
files change; whatever was loaded before stays.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.errors import Unknown
from models import checkpoint, sampling
from models.checkpoint import InvalidVersionError, Manifest
from models.inference import BATCH, Inference

logger = logging.getLogger(__name__)

LATEST = "latest"

Signature = tuple[tuple[str, int, int, int], ...]  # of each file: name, inode, size, mtime in ns


@dataclass(frozen=True, eq=False)
class Generator:
    """A loaded version, ready to draw; the same as itself alone."""

    manifest: Manifest
    inference: Inference

    @property
    def sha256(self) -> str:
        """Of the weights' file."""
        return self.manifest.files[checkpoint.GENERATOR].sha256

    def images(self, seeds: Sequence[int]) -> Tensor:
        """``[len(seeds), 28, 28]`` uint8, one a seed; at most ``inference.BATCH``. Safe in several threads."""
        return self.inference(sampling.latents(seeds, self.manifest.latent_shape, self.manifest.latents))

    def draw(self, seed: int, n: int) -> Tensor:
        """``[n, 28, 28]`` uint8; image *i* depends on ``seed + i`` alone."""
        every = range(seed, seed + n)
        return torch.cat([self.images(every[start : start + BATCH]) for start in range(0, n, BATCH)])


@dataclass(frozen=True)
class Entry:
    """A version folder as it was last looked at: a generator, a problem, or a problem since loading."""

    arch: str
    version: int
    shipped: bool
    signature: Signature
    generator: Generator | None
    problem: str | None


Entries = dict[tuple[str, int], Entry]  # by architecture and version


class Generators:
    """All versions of one model directory and the shipped ones. Reading it needs no lock."""

    def __init__(self, model_dir: Path, device: torch.device) -> None:
        self._model_dir = model_dir
        self._device = device
        self._looking = threading.Lock()
        self._looked = -math.inf  # when the last look began
        self._entries: Entries = {}
        self._answering = _answering(self._entries)

    @property
    def entries(self) -> list[Entry]:
        """By architecture and version."""
        return list(self._entries.values())

    def refresh(self) -> None:
        """Look at the directory: load what is new or changed, forget what is gone.

        Those who call it while somebody looks share one look after that.
        """
        called = time.monotonic()
        with self._looking:
            if self._looked > called:
                return
            self._looked = time.monotonic()
            folders = checkpoint.folders(self._model_dir)
            self._entries = {key: self._look(key, folder) for key, folder in folders.items()}
            self._answering = _answering(self._entries)

    async def look_again(self) -> None:
        """:meth:`refresh` off the event loop; while the directory cannot be read, what is loaded stays."""
        try:
            await asyncio.to_thread(self.refresh)
        except Exception:
            logger.exception("cannot look at the model directory")

    def get(self, arch: str, version: str | None = None) -> Generator:
        """The generator of a version number, of ``latest``, or the best (see ``Manifest.preference``).

        Raises:
            Unknown: there is no such version, or it is rejected.
        """
        if found := self._answering.get((arch, version)):
            return found
        if version is None or version == LATEST:
            raise Unknown(f"no version of {arch} is loaded", field="arch")
        numbers = []
        for entry in self._entries.values():
            if (entry.arch, str(entry.version)) == (arch, version):
                raise Unknown(f"version {version} of {arch} is rejected: {entry.problem}", field="version")
            if entry.arch == arch and entry.generator:
                numbers.append(entry.version)
        raise Unknown(f"{arch} has no version {version}", field="version", bound={"loaded": numbers})

    def _look(self, key: tuple[str, int], folder: Path) -> Entry:
        arch, version = key
        before = self._entries.get(key)
        signature = _signature(folder)
        if before and before.signature == signature:
            return before
        generator, problem = before.generator if before else None, None
        try:
            manifest, network = checkpoint.read_generator(folder)
            generator = Generator(manifest, Inference(network, manifest.latent_shape, self._device))
            logger.info("loaded %s version %d", arch, version)
        except Exception as error:  # one bad folder must not keep the others from being found
            problem = str(error) if isinstance(error, InvalidVersionError) else f"{type(error).__name__}: {error}"
            logger.warning("rejected %s version %d: %s", arch, version, problem)
        return Entry(arch, version, checkpoint.PRETRAINED in folder.parents, signature, generator, problem)


def _answering(entries: Entries) -> dict[tuple[str, str | None], Generator]:
    """Which generator answers for an architecture and what a request says of the version."""
    loaded = [(arch, entry.generator) for (arch, _), entry in entries.items() if entry.generator]
    by_preference = sorted(loaded, key=lambda one: one[1].manifest.preference())
    by_number = sorted(loaded, key=lambda one: one[1].manifest.version)
    return {
        **{(arch, str(generator.manifest.version)): generator for arch, generator in loaded},
        **{(arch, LATEST): generator for arch, generator in by_number},
        **{(arch, None): generator for arch, generator in by_preference},
    }


def _signature(folder: Path) -> Signature:
    found = []
    for name in (checkpoint.MANIFEST, *checkpoint.FILES):
        try:
            stat = (folder / name).stat()
        except OSError:
            continue
        found.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)
