"""The seed indexes of the versions in memory: read from the model directory, and made where they are missing.

One thread looks once a second for the versions that are new. The index of a version is made when it is first
asked for. Of all processes that share a model directory, the one that holds the lock makes what is missing, one
index at a time and at the lowest priority; the others find it there. Where nothing can be written, each process
makes its own.
"""

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from app.entries import LoadedVersion
from app.generators import Generators
from models import files, seed_index
from models.inference import BATCH
from models.manifest import Manifest
from models.seed_index import InvalidIndexError, SeedIndex
from models.versions import PRETRAINED
from worker.linux import yield_thread

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
NICENESS = 19


class Indexes:
    """The indexes of the versions that ``generators`` has in memory, from ``start`` to ``close``."""

    def __init__(self, generators: Generators, model_dir: Path) -> None:
        self._generators = generators
        self._model_dir = model_dir
        self._indexes: dict[str, SeedIndex] = {}  # by name; replaced as a whole, so readers need no lock
        self._asked: set[str] = set()
        self._damaged: set[str] = set()  # of which the log has the reason
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="indexes")

    def peek(self, manifest: Manifest) -> SeedIndex | None:
        """The index of a version, if there is one."""
        return self._indexes.get(seed_index.make_name(manifest))

    def find(self, manifest: Manifest) -> SeedIndex | None:
        """The index of a version; None if there is none yet: then it will be made."""
        if index := self.peek(manifest):
            return index
        self._asked.add(seed_index.make_name(manifest))
        return None

    def start(self) -> None:
        """Make what is missing in the background."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, in the middle of an index if need be."""
        self._closed.set()
        if self._thread.ident:  # it was started
            self._thread.join()

    def _work(self) -> None:
        yield_thread(NICENESS)
        torch.set_num_threads(1)  # of this thread
        while not self._closed.wait(LOOK_SECONDS):
            try:
                for loaded in self.look():
                    self._make(loaded)
            except Exception:
                logger.exception("cannot make an index")

    def look(self) -> list[LoadedVersion]:
        """Read the indexes of all versions in memory, and forget the others. Returns the versions that need one."""
        entries = self._generators.entries
        loaded = {seed_index.make_name(entry.loaded.manifest): entry.loaded for entry in entries if entry.loaded}
        known = {name: self._indexes.get(name) or self._read(name) for name in loaded}
        self._indexes = {name: index for name, index in known.items() if index}
        return [version for name, version in loaded.items() if name in self._asked and not known[name]]

    def _read(self, name: str) -> SeedIndex | None:
        for root in (PRETRAINED, self._model_dir):
            try:
                if index := seed_index.load(root, name):
                    return index
            except (OSError, InvalidIndexError) as error:
                if name not in self._damaged:
                    logger.warning("an index will be made again: %s", error)
                self._damaged.add(name)
                self._asked.add(name)
        return None

    def _make(self, version: LoadedVersion) -> None:
        """Make an index, unless another process is making one."""
        manifest, name = version.manifest, seed_index.make_name(version.manifest)
        with self._lock() as is_ours:
            if not is_ours:
                return
            index = self._read(name) or seed_index.build(version.draw, BATCH, lambda: not self._closed.is_set())
            if index is None:
                return
            try:
                seed_index.save(self._model_dir, name, index)
            except OSError as error:
                logger.warning("the index of %s version %d is not kept: %s", manifest.arch, manifest.version, error)
        self._indexes = {**self._indexes, name: index}
        logger.info("which seed draws which digit is known of %s version %d", manifest.arch, manifest.version)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[bool]:
        """Whether this process may make an index now."""
        folder = self._model_dir / seed_index.FOLDER
        try:
            files.make_root(self._model_dir)
            files.make_folder(folder, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:  # nothing can be written: then there is nothing to share
            yield True
            return
        try:
            yield _is_free(descriptor)
        finally:
            os.close(descriptor)


def _is_free(descriptor: int) -> bool:
    """Lock a folder as long as its descriptor is open; False if another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system has no locks: then two may make the same
        return True
    return True
