"""Indexes of few seeds, made in this process, of versions that nobody trained."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from app import indexes
from app.generators import Generators
from app.indexes import Indexes
from models import seed_index
from models.manifest import Manifest
from models.seed_index import SeedIndex
from tests.processes import eventually
from tests.versions import NEXT, publish

CPU = torch.device("cpu")


class Place:
    """A model directory with one version, and what processes that share it see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        publish(folder, "vanilla")
        self.opened: list[Indexes] = []

    def open(self) -> tuple[Indexes, Manifest]:
        """As a process does at its start."""
        generators = Generators(self.folder, CPU)
        generators.refresh()
        found = Indexes(generators, self.folder)
        found.look()
        self.opened.append(found)
        return found, generators.get("vanilla", str(NEXT["vanilla"])).manifest

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / seed_index.FOLDER).glob("*"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(seed_index, "SEEDS", 64)
    monkeypatch.setattr(indexes, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(indexes, "PRETRAINED", tmp_path / "none")  # those are of more seeds
    place = Place(tmp_path)
    yield place
    for opened in place.opened:
        opened.close()


def test_an_index_is_made_when_it_is_asked_for_and_kept(place: Place) -> None:
    first, manifest = place.open()
    first.start()
    assert first.peek(manifest) is None
    assert first.find(manifest) is None
    made = eventually(lambda: first.peek(manifest), "it is made")
    assert made
    assert made.digits.shape == (64,)
    (file,) = place.files
    assert file.name == seed_index.make_name(manifest)
    second, _ = place.open()  # it reads what the first one has made
    read = second.peek(manifest)
    assert read
    assert (read.digits == made.digits).all()


def test_what_nobody_asks_for_is_not_made(place: Place) -> None:
    opened, manifest = place.open()
    opened.peek(manifest)
    assert opened.look() == []


def test_a_damaged_index_is_made_again(place: Place) -> None:
    opened, manifest = place.open()
    seed_index.save(place.folder, seed_index.make_name(manifest), SeedIndex(*np.zeros((2, 64), np.uint8)))
    (file,) = place.files
    file.write_bytes(file.read_bytes()[:-3])
    opened.start()
    assert opened.find(manifest) is None
    eventually(lambda: opened.peek(manifest), "it is made")
    assert seed_index.load(place.folder, file.name)


def test_of_several_processes_one_makes_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the lock: nothing is made here until it has ended, or has made it."""
    build = Mock(wraps=seed_index.build)
    monkeypatch.setattr(seed_index, "build", build)
    (place.folder / seed_index.FOLDER).mkdir()
    lock = os.open(place.folder / seed_index.FOLDER, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    opened, manifest = place.open()
    look = Mock(wraps=opened.look)
    monkeypatch.setattr(opened, "look", look)
    opened.find(manifest)
    opened.start()
    eventually(lambda: look.call_count > 5, "it has tried")
    assert not build.called
    os.close(lock)
    eventually(lambda: opened.peek(manifest), "it is made")
    assert build.call_count == 1


def test_where_nothing_can_be_written_each_process_makes_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.folder / seed_index.FOLDER).write_bytes(b"")  # in the way of the folder
    opened, manifest = place.open()
    opened.find(manifest)
    opened.start()
    eventually(lambda: opened.peek(manifest), "it is made")


def test_closing_breaks_an_index_off(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_index, "SEEDS", 2**30)
    opened, manifest = place.open()
    opened.find(manifest)
    opened.start()
    eventually(lambda: (place.folder / seed_index.FOLDER).is_dir(), "it has begun")
    opened.close()
    assert opened.peek(manifest) is None


def test_a_version_that_has_gone_is_forgotten(place: Place) -> None:
    opened, manifest = place.open()
    opened.find(manifest)
    opened.start()
    eventually(lambda: opened.peek(manifest), "it is made")
    (place.folder / "vanilla" / str(manifest.version) / "manifest.json").unlink()
    opened._generators.refresh()
    eventually(lambda: opened.peek(manifest) is None, "it is forgotten")
