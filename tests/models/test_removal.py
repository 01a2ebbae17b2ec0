"""A version is there whole or not at all, whenever its remover dies, and its number never comes back."""

import itertools
import shutil
import signal
from pathlib import Path

import numpy as np

from models import removal, seed_index, versions
from models.manifest import Manifest
from models.seed_index import SEEDS, SeedIndex
from models.versions import NUMBERS
from tests.faults import run_until
from tests.versions import NEXT, publish

INDEX = SeedIndex(np.zeros(SEEDS, np.uint8), np.zeros(SEEDS, np.uint8))


def keep_index(model_dir: Path, manifest: Manifest) -> Path:
    name = seed_index.make_name(manifest)
    seed_index.save(model_dir, name, INDEX)
    return model_dir / seed_index.FOLDER / name


def list_own(model_dir: Path) -> list[int]:
    """The versions that readers see; each of them must be whole."""
    own = [(key, path) for key, path in versions.find_folders(model_dir).items() if path.is_relative_to(model_dir)]
    for _, folder in own:
        versions.read_generator(folder)
    return [number for (_, number), _ in own]


def test_a_version_goes_with_its_index_and_its_number_stays_given(tmp_path: Path) -> None:
    first, second = (publish(tmp_path, weights_seed=seed) for seed in (1, 2))
    files = [keep_index(tmp_path, manifest) for manifest in (first, second)]
    removal.remove(tmp_path, "dcgan", second.version)
    assert list_own(tmp_path) == [first.version]
    assert [file.exists() for file in files] == [True, False]
    assert sorted(path.name for path in (tmp_path / "dcgan").iterdir()) == [NUMBERS, str(first.version)]
    assert publish(tmp_path).version == second.version + 1


def test_a_number_that_an_earlier_release_gave_is_not_given_again(tmp_path: Path) -> None:
    version = publish(tmp_path).version
    shutil.rmtree(tmp_path / "dcgan" / NUMBERS)  # which did not record it
    removal.remove(tmp_path, "dcgan", version)
    assert publish(tmp_path).version == version + 1


def test_an_index_stays_as_long_as_a_version_has_these_weights(tmp_path: Path) -> None:
    first, second = publish(tmp_path), publish(tmp_path)
    file = keep_index(tmp_path, first)
    assert file == keep_index(tmp_path, second)
    removal.remove(tmp_path, "dcgan", first.version)
    assert file.exists()
    removal.remove(tmp_path, "dcgan", second.version)
    assert not file.exists()


def test_a_damaged_version_can_be_removed(tmp_path: Path) -> None:
    version = publish(tmp_path).version
    (tmp_path / "dcgan" / str(version) / "manifest.json").write_text("{}")
    removal.remove(tmp_path, "dcgan", version)
    assert list_own(tmp_path) == []


def remove_once(model_dir: Path) -> None:
    removal.remove(model_dir, "dcgan", NEXT["dcgan"])


def test_a_remover_killed_before_any_of_its_changes_leaves_a_whole_version_or_none(tmp_path: Path) -> None:
    """This fails if the files are removed from where readers look for them."""
    left: list[int] = []
    for step in itertools.count(1):
        model_dir = tmp_path / str(step)
        publish(model_dir)
        process = run_until(step, signal.SIGKILL, remove_once, model_dir)
        process.join()
        left.append(len(list_own(model_dir)))
        assert publish(model_dir).version == NEXT["dcgan"] + 1
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert left == sorted(left, reverse=True)
    assert (left[0], left[-1]) == (1, 0)
    assert step > 8
