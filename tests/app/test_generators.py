import asyncio
import errno
import itertools
import os
import resource
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from app.entries import Entry, NotNowError, Source, UnknownVersionError
from app.generators import Generators
from models import choices, classifier, files, publishing, versions
from models.archs import ARCHS
from models.manifest import GENERATOR, MANIFEST
from tests.processes import eventually, run_in_threads
from tests.versions import publish

SHIPPED_FOLDER = versions.PRETRAINED
BEST: Any = {"metrics": {"fid": 0.1}, "classifier_sha256": classifier.sha256()}  # better than all shipped versions


@pytest.fixture(autouse=True)
def one_shipped_each(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if only version 1 of each architecture came with the code."""
    shipped = tmp_path_factory.mktemp("shipped")
    for arch in ARCHS:
        (shipped / arch).mkdir()
        (shipped / arch / "1").symlink_to(versions.PRETRAINED / arch / "1")
    for module in (versions, publishing):
        monkeypatch.setattr(module, "PRETRAINED", shipped)


@pytest.fixture
def generators(tmp_path: Path) -> Generators:
    found = Generators(tmp_path, torch.device("cpu"))
    found.refresh()
    return found


def entry(generators: Generators, version: int) -> Entry:
    return next(e for e in generators.entries if (e.arch, e.version) == ("dcgan", version))


def test_the_shipped_versions_are_there(generators: Generators) -> None:
    assert [(e.arch, e.version, e.source, e.is_default) for e in generators.entries] == [
        ("dcgan", 1, "shipped", True), ("vanilla", 1, "shipped", True), ("wgan", 1, "shipped", True),
    ]  # fmt: skip


def test_a_new_version_is_found(generators: Generators, tmp_path: Path) -> None:
    version = publish(tmp_path).version
    with pytest.raises(UnknownVersionError):
        generators.get("dcgan", str(version))
    generators.refresh()
    assert generators.get("dcgan", str(version)).manifest.version == version
    assert generators.get("dcgan", "latest").manifest.version == version


def test_without_a_trained_version_the_latest_is_the_default(generators: Generators, tmp_path: Path) -> None:
    """Those that are shipped for comparison may have higher numbers."""
    shipped = versions.PRETRAINED / "dcgan"
    (shipped / "2").symlink_to(SHIPPED_FOLDER / "dcgan" / "2")
    generators.refresh()
    assert [generators.get("dcgan", name).manifest.version for name in ("2", "latest", None)] == [2, 1, 1]
    ours = publish(tmp_path).version
    generators.refresh()
    assert generators.get("dcgan", "latest").manifest.version == ours == 3


def test_a_short_trial_does_not_displace_a_good_version(generators: Generators, tmp_path: Path) -> None:
    good = publish(tmp_path, epochs=500, **BEST).version
    trial = publish(tmp_path, epochs=1).version
    generators.refresh()
    assert generators.get("dcgan").manifest.version == good
    assert generators.get("dcgan", "latest").manifest.version == trial
    assert [e.version for e in generators.entries if e.arch == "dcgan" and e.is_default] == [good]


def test_a_damaged_version_is_rejected_with_the_reason_and_the_last_good_one_stays(
    generators: Generators, tmp_path: Path
) -> None:
    good = publish(tmp_path, epochs=500, **BEST).version
    bad = publish(tmp_path, epochs=900, **BEST).version
    weights = tmp_path / "dcgan" / str(bad) / GENERATOR
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    generators.refresh()
    assert entry(generators, bad).state == "rejected"
    assert "truncated" in (entry(generators, bad).problem or "")
    assert generators.get("dcgan").manifest.version == good
    with pytest.raises(UnknownVersionError, match="truncated"):
        generators.get("dcgan", str(bad))

    weights.write_bytes(whole)  # as if a slow copy has ended
    generators.refresh()
    assert generators.get("dcgan").manifest.version == bad


def test_a_huge_file_is_rejected_before_it_is_read(generators: Generators, tmp_path: Path) -> None:
    """Neither as weights, nor as a manifest, nor as what a manifest promises."""
    huge, promised, manifest = (tmp_path / "dcgan" / str(publish(tmp_path).version) for _ in range(3))
    os.truncate(huge / GENERATOR, 5 * 2**30)  # a file with a hole, which takes no room
    text = (promised / MANIFEST).read_text()
    size = (promised / GENERATOR).stat().st_size
    (promised / MANIFEST).write_text(text.replace(str(size), str(5 * 2**30)))
    os.truncate(promised / GENERATOR, 5 * 2**30)
    os.truncate(manifest / MANIFEST, 3 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generators.refresh()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
    for folder, said in ((huge, "more than"), (promised, "less than or equal"), (manifest, "more than")):
        assert said in (entry(generators, int(folder.name)).problem or "")


def test_a_manifest_that_is_nested_too_deeply_is_rejected(generators: Generators, tmp_path: Path) -> None:
    version = publish(tmp_path).version
    (tmp_path / "dcgan" / str(version) / MANIFEST).write_text("[" * 100_000)
    generators.refresh()
    assert "cannot be read" in (entry(generators, version).problem or "")


def test_a_version_damaged_after_it_was_loaded_still_answers(generators: Generators, tmp_path: Path) -> None:
    version = publish(tmp_path).version
    generators.refresh()
    before = generators.get("dcgan", str(version)).draw(range(4))
    (tmp_path / "dcgan" / str(version) / GENERATOR).write_bytes(b"")
    generators.refresh()
    assert (generators.get("dcgan", str(version)).draw(range(4)) == before).all()
    assert "truncated" in (entry(generators, version).problem or "")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"schema_version": 1, "metrics": {"fid": NaN}}'])
def test_an_odd_folder_does_not_hide_the_others(generators: Generators, tmp_path: Path, content: bytes) -> None:
    odd, good = publish(tmp_path).version, publish(tmp_path).version
    (tmp_path / "dcgan" / str(odd) / MANIFEST).write_bytes(content)
    (tmp_path / "wgan").write_text("a file where a folder belongs")
    generators.refresh()
    assert entry(generators, odd).problem
    assert generators.get("dcgan", "latest").manifest.version == good
    assert generators.get("wgan")


def test_a_removed_version_is_forgotten(generators: Generators, tmp_path: Path) -> None:
    version = publish(tmp_path).version
    generators.refresh()
    shutil.rmtree(tmp_path / "dcgan" / str(version))
    generators.refresh()
    with pytest.raises(UnknownVersionError):
        generators.get("dcgan", str(version))


def test_unchanged_versions_are_not_read_again(generators: Generators, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "read_generator", lambda folder: pytest.fail("read again"))
    generators.refresh()


class CountedLock:
    """A lock that counts how often it was requested."""

    def __init__(self) -> None:
        self.asked = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.asked += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_those_who_look_while_somebody_looks_share_one_look(
    generators: Generators, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    go, lock, folders = threading.Event(), CountedLock(), versions.find_folders

    def slow(model_dir: Path) -> dict[tuple[str, int], Path]:
        looks.append(model_dir)
        go.wait()
        return folders(model_dir)

    monkeypatch.setattr(versions, "find_folders", slow)
    monkeypatch.setattr(generators, "_looking", lock)
    first = threading.Thread(target=generators.refresh)
    first.start()
    eventually(lambda: looks, "the first one looks")
    others = [threading.Thread(target=generators.refresh) for _ in range(9)]
    for thread in others:
        thread.start()
    eventually(lambda: lock.asked == 10, "all others wait")
    go.set()
    for thread in (first, *others):
        thread.join()
    assert len(looks) == 2


def test_a_directory_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    found = Generators(tmp_path / "later", torch.device("cpu"))
    found.refresh()
    assert all(e.source is Source.SHIPPED for e in found.entries)


def count_loaded(generators: Generators) -> int:
    return sum(1 for one in generators.entries if one.loaded)


def test_only_some_versions_are_in_memory_and_all_draw(tmp_path: Path) -> None:
    numbers = [publish(tmp_path, weights_seed=number).version for number in range(12)]
    found = Generators(tmp_path, torch.device("cpu"), in_memory=5)
    found.refresh()
    assert count_loaded(found) == 4  # three shipped ones, the default, and the latest
    assert {one.state for one in found.entries} == {"loaded", "on_disk"}
    everything = Generators(tmp_path, torch.device("cpu"), in_memory=99)
    everything.refresh()
    assert count_loaded(everything) == 15
    for number in numbers + numbers[::-1]:
        drawn = found.get("dcgan", str(number)).draw(range(2))
        assert (drawn == everything.get("dcgan", str(number)).draw(range(2))).all()
        assert count_loaded(found) <= 5


def test_the_versions_that_were_asked_for_last_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third, _ = (publish(tmp_path).version for _ in range(4))
    found = Generators(tmp_path, torch.device("cpu"), in_memory=6)
    found.refresh()
    for number in (first, second, first, third):
        found.get("dcgan", str(number))
    assert [entry(found, number).state for number in (first, second, third)] == ["loaded", "on_disk", "loaded"]
    monkeypatch.setattr(versions, "read_generator", lambda folder: pytest.fail("read again"))
    found.get("dcgan", str(first))


def test_a_version_that_is_damaged_on_the_disk_is_rejected_when_it_is_asked_for(tmp_path: Path) -> None:
    best = publish(tmp_path, **BEST).version
    damaged, *_ = (publish(tmp_path).version for _ in range(8))
    for number in (best, damaged):
        (tmp_path / "dcgan" / str(number) / GENERATOR).write_bytes(b"")
    found = Generators(tmp_path, torch.device("cpu"), in_memory=4)
    found.refresh()
    assert found.get("dcgan").manifest.version == 1  # the best of those that can draw
    assert entry(found, best).state == "rejected"
    assert entry(found, damaged).state == "on_disk"
    with pytest.raises(UnknownVersionError, match="truncated"):
        found.get("dcgan", str(damaged))
    assert entry(found, damaged).state == "rejected"
    found.refresh()
    assert entry(found, damaged).state == "rejected"


def test_one_whose_files_were_damaged_later_is_never_dropped(tmp_path: Path) -> None:
    """It could not be loaded again."""
    kept, *others = (publish(tmp_path).version for _ in range(6))
    found = Generators(tmp_path, torch.device("cpu"), in_memory=5)
    found.refresh()
    found.get("dcgan", str(kept))
    (tmp_path / "dcgan" / str(kept) / GENERATOR).write_bytes(b"")
    found.refresh()
    for number in others:
        found.get("dcgan", str(number))
    assert found.get("dcgan", str(kept))
    assert "truncated" in (entry(found, kept).problem or "")


@pytest.mark.parametrize("in_memory", [1, 3, 4])
def test_every_version_draws_however_few_are_in_memory(tmp_path: Path, in_memory: int) -> None:
    """One beside the wanted ones has a place in any case."""
    numbers = [publish(tmp_path, weights_seed=number).version for number in range(4)]
    found = Generators(tmp_path, torch.device("cpu"), in_memory)
    found.refresh()
    for number in numbers * 2:
        assert found.get("dcgan", str(number)).manifest.version == number
        assert count_loaded(found) <= 5


def test_two_who_ask_for_two_versions_in_turn_are_both_served(tmp_path: Path) -> None:
    first, second, _ = (publish(tmp_path, weights_seed=number).version for number in range(3))
    found = Generators(tmp_path, torch.device("cpu"), in_memory=1)
    found.refresh()
    asked = itertools.cycle([first, second])

    def ask() -> None:
        for _ in range(20):
            number = next(asked)
            assert found.get("dcgan", str(number)).manifest.version == number

    run_in_threads(ask, 4)


def test_the_default_is_never_missing_while_others_come_and_go(tmp_path: Path) -> None:
    found = Generators(tmp_path, torch.device("cpu"), in_memory=1)
    found.refresh()
    failed: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                found.get("dcgan")
            except Exception as error:
                failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    for number in range(5):
        versions_now = [publish(tmp_path, **BEST, weights_seed=number).version for _ in range(3)]
        found.refresh()
        for version in versions_now:
            shutil.rmtree(tmp_path / "dcgan" / str(version))
        found.refresh()
    done.set()
    asking.join()
    assert failed == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_an_error_that_passes_rejects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    old, *_ = (publish(tmp_path).version for _ in range(3))
    found = Generators(tmp_path, torch.device("cpu"), in_memory=1)
    found.refresh()

    def fail(path: Path, max_bytes: int) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as failing:
        failing.setattr(files, "read", fail)
        new = publish(tmp_path).version
        found.refresh()
        with pytest.raises(NotNowError, match="try again later"):
            found.get("dcgan", str(old))
    assert found.get("dcgan", str(old))
    found.refresh()
    assert found.get("dcgan", str(new)).manifest.version == new


def test_the_best_version_of_a_recipe(tmp_path: Path) -> None:
    publish(tmp_path, "wgan", recipe={"name": "own"}, epochs=2)
    best = publish(tmp_path, "wgan", recipe={"name": "own"}, epochs=3)
    damaged = publish(tmp_path, "wgan", recipe={"name": "own"}, epochs=4)
    (tmp_path / "wgan" / str(damaged.version) / "manifest.json").write_text("{}")
    generators = Generators(tmp_path, torch.device("cpu"))
    generators.refresh()
    assert asyncio.run(generators.find_of_recipe("wgan", "own")).manifest.version == best.version
    assert asyncio.run(generators.find_of_recipe("wgan", None)) is generators.get("wgan")
    with pytest.raises(UnknownVersionError, match="recipe own"):
        asyncio.run(generators.find_of_recipe("dcgan", "own"))


@pytest.mark.parametrize(("is_hidden", "said"), [(False, "the best one answers"), (True, "none can answer")])
def test_what_a_pin_of_nothing_means_is_said(
    tmp_path: Path, generators: Generators, is_hidden: bool, said: str
) -> None:
    choices.pin(tmp_path, "wgan", 77)
    if is_hidden:
        choices.hide(tmp_path, "wgan", 1)
    generators.refresh()
    problem = f"version 77 of wgan is pinned, but {said}, since there is no such version"
    assert generators.pins["wgan"].problem == problem
