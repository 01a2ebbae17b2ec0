"""What is known of a version, and the version itself once it is loaded."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models import manifest, sampling, versions
from models.inference import Inference
from models.manifest import InvalidVersionError, Manifest

logger = logging.getLogger(__name__)

Key = tuple[str, int]  # architecture and number
Signature = tuple[tuple[str, int, int, int, int], ...]  # of each file: name, inode, size, mtime and ctime in ns


class UnknownVersionError(Exception):
    """The version does not exist or is rejected; choose one of ``usable``, or train one."""

    def __init__(self, message: str, *, field: str = "version", usable: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.field = field  # the wrong field of the request: version or arch
        self.usable = list(usable)


class NotNowError(Exception):
    """The version is there, but could not be loaded just now; try again."""


class EntryState(StrEnum):
    """Whether a version can draw."""

    LOADED = "loaded"
    ON_DISK = "on_disk"  # it is loaded when it is asked for
    REJECTED = "rejected"


class Source(StrEnum):
    """Where a version comes from."""

    SHIPPED = "shipped"  # with the code
    TRAINED = "trained"  # here, or on another host that shares the model directory
    IMPORTED = "imported"  # from files that others saved


@dataclass(frozen=True, eq=False)
class LoadedVersion:
    """A version that is ready to draw. It is equal only to itself."""

    manifest: Manifest
    inference: Inference

    @property
    def arch(self) -> str:
        return self.manifest.arch

    @property
    def facts(self) -> tuple[object, ...]:
        """What its images depend on, apart from their seeds."""
        said = self.manifest
        return self.inference.device, said.version, said.latents, said.weights_sha256

    def draw(self, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """One image per seed, ``[len(seeds), 28, 28]``; at most ``inference.BATCH`` seeds. Thread-safe."""
        return self.draw_latents(self.make_latents(seeds))

    def draw_latents(self, z: Tensor) -> NDArray[np.uint8]:
        """One image per row of ``z``, ``[len(z), 28, 28]``; at most ``inference.BATCH`` rows. Thread-safe."""
        return self.inference(z).numpy()

    def make_latents(self, seeds: Sequence[int]) -> Tensor:
        """The latents from which it draws the images of these seeds, ``[len(seeds), …]``."""
        return sampling.make_latents(seeds, self.manifest.latent_shape, self.manifest.latents)


@dataclass(frozen=True)
class Entry:
    """What is known of a version."""

    arch: str
    version: int
    source: Source
    folder: Path
    signature: Signature  # of its files when they were last read
    manifest: Manifest | None  # None: it cannot be read
    loaded: LoadedVersion | None
    problem: str | None  # why it is rejected, or what happened to its files after it was loaded
    is_default: bool = False  # it is used if a request names no version
    is_pinned: bool = False  # somebody has made it the default

    @property
    def state(self) -> EntryState:
        if self.loaded:
            return EntryState.LOADED
        return EntryState.REJECTED if self.problem else EntryState.ON_DISK

    @property
    def is_usable(self) -> bool:
        return self.state is not EntryState.REJECTED

    def require_usable(self) -> None:
        """Go on only with a version that can draw.

        Raises:
            UnknownVersionError: it is rejected.
        """
        if not self.is_usable:
            raise UnknownVersionError(f"version {self.version} of {self.arch} is rejected: {self.problem}")


def look(key: Key, folder: Path, before: Entry | None) -> Entry:
    """What the folder of a version says; the same entry as ``before`` if nothing has changed."""
    signature = _sign(folder)
    if before and before.signature == signature:
        return before
    ours = versions.PRETRAINED not in folder.parents
    source = Source.TRAINED if ours else Source.SHIPPED
    loaded = before.loaded if before else None
    entry = Entry(*key, source, folder, signature, loaded.manifest if loaded else None, loaded, None)
    try:
        said = versions.read_fitting_manifest(folder)
        return replace(entry, manifest=said, source=Source.IMPORTED if ours and said.imported else source)
    except (OSError, MemoryError) as error:
        return replace(reject(entry, error), signature=())  # it is read again in the next look
    except Exception as error:
        return reject(entry, error)


def reject(entry: Entry, error: Exception) -> Entry:
    """The entry with the reason why its files cannot be used. A version that is loaded stays."""
    problem = str(error) if isinstance(error, InvalidVersionError) else f"{type(error).__name__}: {error}"
    logger.warning("rejected %s version %d: %s", entry.arch, entry.version, problem)
    return replace(entry, manifest=entry.loaded.manifest if entry.loaded else None, problem=problem)


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
