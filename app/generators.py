"""The versions that draw: found in the model directory, verified, warmed up, swapped in while running.

All manifests are in memory, and the weights of some versions; the others are loaded when they are asked for.
A version that cannot be used is listed as rejected, with the reason, and is read again when its files
change. If the files of a loaded version are damaged later, the loaded version stays in use.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch

from app.entries import Entry, EntryState, Key, LoadedVersion, NotNowError, Source, UnknownVersionError, look, reject
from app.settings import IN_MEMORY
from models import choices, classifier, versions
from models.archs import ARCHS
from models.choices import InvalidPinError
from models.inference import Inference

logger = logging.getLogger(__name__)

T = TypeVar("T")

LATEST = "latest"


@dataclass(frozen=True)
class Pin:
    """Which version of an architecture is pinned."""

    version: int | None = None  # None: none is
    problem: str | None = None  # why the best version answers in its place


@dataclass(frozen=True)
class _Snapshot:
    """All versions at one moment, and which one a request's (arch, version) means."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    pins: dict[str, Pin] = field(default_factory=lambda: dict.fromkeys(ARCHS, Pin()))  # by architecture
    answering: dict[tuple[str, str | None], Entry] = field(default_factory=dict)

    @property
    def wanted(self) -> set[Key]:
        """The default version and the latest one of each architecture: they stay in memory."""
        named = [entry for (_, name), entry in self.answering.items() if name in (None, LATEST)]
        return {(entry.arch, entry.version) for entry in named}


class Generators:
    """All versions of one model directory, and the shipped ones. Readers need no lock."""

    def __init__(self, model_dir: Path, device: torch.device, in_memory: int = IN_MEMORY) -> None:
        """``in_memory``: so many versions stay loaded: the wanted ones and, at least one, those asked for last."""
        self.model_dir = model_dir
        self._device = device
        self._in_memory = in_memory
        self._looking = threading.Lock()  # held while the snapshot is made
        self._looked = -math.inf  # when the last refresh began
        self._snapshot = _Snapshot()
        self._pins: dict[str, Pin] = {}  # as the files have them
        self._asked: dict[Key, float] = {}  # when a version was last asked for
        self.problem: str | None = None  # why the model directory cannot be listed
        if not model_dir.exists():
            logger.info("%s does not exist yet: until it does, only the shipped versions draw", model_dir)

    @property
    def entries(self) -> list[Entry]:
        """All versions, sorted by architecture and number."""
        return list(self._snapshot.entries.values())

    @property
    def pins(self) -> dict[str, Pin]:
        """The pin of each architecture."""
        return self._snapshot.pins

    def refresh(self) -> None:
        """Read the directory: find new and changed versions, load them, forget removed ones.

        At the start, if there are more than stay in memory, only the wanted ones are loaded. All callers that
        arrive during a refresh share the next one.
        """
        called = time.monotonic()
        with self._looking:
            if self._looked > called:
                return
            self._looked = time.monotonic()
            if (problem := versions.find_problem(self.model_dir)) != self.problem:
                logger.warning("%s", problem or f"{self.model_dir} can be read again")
                self.problem = problem
            before, pins_before = self._snapshot.entries, self._pins
            self._pins = {arch: _read_pin(self.model_dir, arch, pins_before.get(arch)) for arch in ARCHS}
            folders = versions.find_folders(self.model_dir)
            found = {key: look(key, folder, before.get(key)) for key, folder in folders.items()}
            new = [key for key, entry in found.items() if entry is not before.get(key)]
            if not new and len(found) == len(before) and self._pins == pins_before:
                return
            for key in new:
                if len(new) <= self._in_memory or found[key].loaded:
                    found[key] = self._load(found[key])
            self._compose(found)

    async def look_again(self) -> None:
        """:meth:`refresh` off the event loop. If the directory cannot be read, all loaded versions stay."""
        await asyncio.to_thread(self._refresh_patiently)

    async def find(self, arch: str, version: str | None) -> LoadedVersion:
        """:meth:`get`, off the event loop if the version is not in memory.

        If there is no version with this number, the directory is read first: it may have been published a
        moment ago.

        Raises:
            UnknownVersionError: as :meth:`get`.
        """
        if loaded := self._peek(arch, version):
            return loaded
        return await asyncio.to_thread(self._look_and_get, self.get, arch, version)

    async def find_or_best(self, arch: str, version: str | None) -> tuple[LoadedVersion, UnknownVersionError | None]:
        """As :meth:`find`; the default version and the error if that one cannot be used.

        Raises:
            UnknownVersionError: no version of ``arch`` can be used.
        """
        try:
            return await self.find(arch, version), None
        except UnknownVersionError as error:
            return await self.find(arch, None), error

    async def find_of_recipe(self, arch: str, recipe: str | None) -> LoadedVersion:
        """The best usable version that a recipe made; None: the default version.

        Raises:
            UnknownVersionError: there is none.
        """
        if recipe is None:
            return await self.find(arch, None)
        best = self.find_best(arch, recipe)
        if best is None:
            raise UnknownVersionError(f"no version of {arch} that recipe {recipe} made is usable", field="recipe")
        return await self.find(arch, str(best.version))

    def find_best(self, arch: str, recipe: str) -> Entry | None:
        """The best usable version that a recipe made, if there is one."""
        ranked = [
            (entry.manifest.rank(classifier.sha256()), entry)
            for entry in self.entries
            if entry.arch == arch and entry.is_usable and entry.manifest and entry.manifest.recipe_name == recipe
        ]
        return max(ranked, key=lambda one: one[0])[1] if ranked else None

    async def find_entry(self, arch: str, version: str | None) -> Entry:
        """:meth:`get_entry`, with :meth:`find`'s look at the directory.

        Raises:
            UnknownVersionError: as :meth:`get_entry`.
        """
        return await asyncio.to_thread(self._look_and_get, self.get_entry, arch, version)

    def get(self, arch: str, version: str | None = None) -> LoadedVersion:
        """The version with this number, or the ``latest`` one, from memory or the disk. None: the default one.

        Raises:
            UnknownVersionError: there is no such version, or it is rejected.
            NotNowError: it could not be loaded.
        """
        while True:
            if loaded := self._peek(arch, version):
                return loaded
            entry = self._snapshot.answering.get((arch, version))
            if entry is None and (version is None or version == LATEST):
                raise UnknownVersionError(f"no version of {arch} is usable", field="arch")
            if entry is None:
                entry = self.get_entry(arch, version)
                entry.require_usable()
            if loaded := self._load_now((entry.arch, entry.version)):
                return loaded  # it may already be dropped for another one

    def get_entry(self, arch: str, version: str | None) -> Entry:
        """What is known about a version, usable or not.

        Raises:
            UnknownVersionError: there is no such version.
        """
        if version == LATEST:
            version = str(self.get(arch, LATEST).manifest.version)
        of_arch = [entry for entry in self.entries if entry.arch == arch]
        for entry in of_arch:
            if str(entry.version) == version:
                return entry
        usable = [entry.version for entry in of_arch if entry.is_usable]
        raise UnknownVersionError(f"{arch} has no version {version}", usable=usable)

    def _peek(self, arch: str, version: str | None) -> LoadedVersion | None:
        """A version that is in memory."""
        entry = self._snapshot.answering.get((arch, version))
        if entry is None or entry.loaded is None:
            return None
        self._asked[entry.arch, entry.version] = time.monotonic()
        return entry.loaded

    def _look_and_get(self, get: Callable[[str, str | None], T], arch: str, version: str | None) -> T:
        try:
            return get(arch, version)
        except UnknownVersionError:
            if version is None or version == LATEST:
                raise
        self._refresh_patiently()
        return get(arch, version)

    def _refresh_patiently(self) -> None:
        try:
            self.refresh()
        except Exception:
            logger.exception("cannot read the model directory")

    def _load_now(self, key: Key) -> LoadedVersion | None:
        """Load a version that is on the disk; None if it is damaged or was removed.

        Raises:
            NotNowError: it could not be loaded.
        """
        with self._looking:
            entries = dict(self._snapshot.entries)
            if key not in entries:
                return None
            if entries[key].state is EntryState.ON_DISK:
                self._asked[key] = time.monotonic()
                entries[key] = self._load(entries[key])
                self._compose(entries)
            if key not in self._snapshot.entries:
                return None
            if entries[key].state is EntryState.ON_DISK:
                raise NotNowError(f"{key[0]} version {key[1]} could not be loaded; try again later")
            return entries[key].loaded

    def _load(self, entry: Entry) -> Entry:
        """The entry with its version loaded, or with the problem; as it was if it cannot be read just now."""
        if entry.manifest is None:
            return entry
        try:
            said, network = versions.read_generator(entry.folder)
            loaded = LoadedVersion(said, Inference(network, said.latent_shape, self._device))
        except (OSError, MemoryError) as error:
            logger.warning("cannot load %s version %d now: %s", entry.arch, entry.version, error)
            return entry
        except Exception as error:  # one bad folder must not hide the others
            return reject(entry, error)
        logger.info("loaded %s version %d", entry.arch, entry.version)
        return replace(entry, manifest=said, loaded=loaded, problem=None)

    def _compose(self, entries: dict[Key, Entry]) -> None:
        """Make the snapshot of these entries: load what is wanted, and drop what is too much.

        One that was removed while it was read is left out: its files are not damaged, they have gone.
        """
        tried: set[Key] = set()
        snapshot = _answer(entries, self._pins)
        while missing := {key for key in snapshot.wanted if not entries[key].loaded} - tried:
            tried |= missing
            for key in missing:
                entries[key] = self._load(entries[key])
            snapshot = _answer(entries, self._pins)
        rejected = [(key, entry.folder) for key, entry in entries.items() if not entry.is_usable]
        gone = [key for key, folder in rejected if not versions.has_manifest(folder)]
        for key in gone:
            del entries[key]
        wanted = snapshot.wanted
        # One with a problem could not be loaded again.
        spare = [key for key, entry in entries.items() if entry.loaded and not entry.problem and key not in wanted]
        spare.sort(key=lambda key: self._asked.get(key, 0.0))
        dropped = spare[: max(0, len(spare) - max(1, self._in_memory - len(wanted)))]
        for key in dropped:
            entries[key] = replace(entries[key], loaded=None)
        self._asked = {key: at for key, at in self._asked.items() if key in entries and entries[key].loaded}
        if dropped or gone:
            snapshot = _answer(entries, self._pins)
        for arch, pin in snapshot.pins.items():
            if pin.problem and pin != self._snapshot.pins[arch]:
                logger.warning("%s", pin.problem)
        self._snapshot = snapshot


def _read_pin(model_dir: Path, arch: str, before: Pin | None) -> Pin:
    """What the file of a pin says; as ``before`` if it cannot be read just now."""
    try:
        return Pin(choices.read_pin(model_dir, arch))
    except InvalidPinError as error:
        return Pin(problem=f"the pin of {arch} is unknown, and its best version answers: {error}")
    except OSError as error:
        return before or Pin(problem=f"the pin of {arch} could not be read, and its best version answers: {error}")


def _resolve_pin(pin: Pin, arch: str, entries: dict[Key, Entry]) -> Pin:
    """The pin with the reason why it does not answer, if it does not."""
    if pin.version is None:
        return pin
    entry = entries.get((arch, pin.version))
    if entry and entry.is_usable and entry.manifest:
        return pin
    why = f"it is rejected: {entry.problem}" if entry else "there is no such version"
    others = any(other.is_usable and other.manifest for (of, _), other in entries.items() if of == arch)
    what = "the best one answers" if others else "none can answer"
    return replace(pin, problem=f"version {pin.version} of {arch} is pinned, but {what}, since {why}")


def _answer(entries: dict[Key, Entry], pins: Mapping[str, Pin]) -> _Snapshot:
    """The snapshot in which each architecture has its numbers, ``latest``, and None for the default version.

    The default is the pinned one if that can be used, else the best. The latest one is the newest that was
    trained or imported here, or the default if none was.
    """
    present = classifier.sha256()
    usable = {key: entry.manifest for key, entry in entries.items() if entry.is_usable and entry.manifest}
    best = {key[0]: key for key, _ in sorted(usable.items(), key=lambda item: item[1].rank(present))}
    ours = {key[0]: key for key in sorted(usable) if entries[key].source is not Source.SHIPPED}
    resolved = {arch: _resolve_pin(pin, arch, entries) for arch, pin in pins.items()}
    pinned = {(arch, pin.version) for arch, pin in resolved.items() if pin.version is not None}
    chosen = best | {key[0]: key for key in pinned if key in usable}
    latest = chosen | ours  # what is shipped may be old, or there for comparison
    defaults = set(chosen.values())
    marked = {key: _mark(entry, is_default=key in defaults, is_pinned=key in pinned) for key, entry in entries.items()}
    return _Snapshot(
        entries=marked,
        pins=resolved,
        answering={
            **{(arch, str(version)): marked[arch, version] for arch, version in usable},
            **{(arch, LATEST): marked[key] for arch, key in latest.items()},
            **{(arch, None): marked[key] for arch, key in chosen.items()},
        },
    )


def _mark(entry: Entry, *, is_default: bool, is_pinned: bool) -> Entry:
    """The entry with these marks; the same one if it has them."""
    if (entry.is_default, entry.is_pinned) == (is_default, is_pinned):
        return entry
    return replace(entry, is_default=is_default, is_pinned=is_pinned)
