from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from models import readers, sampling, seed_index, versions
from models.inference import BATCH, Inference
from models.manifest import Manifest, read_manifest
from models.seed_index import SEEDS, InvalidIndexError, SeedIndex, TooFewError

FOLDERS = sorted(versions.PRETRAINED.glob("*/*/"))


def make() -> SeedIndex:
    """Seed s draws digit s % 10, at level 100, but for digit 7, which is rare, and 8, which is unsure."""
    digits = (np.arange(SEEDS) % 10).astype(np.uint8)
    levels = np.full(SEEDS, 100, np.uint8)
    levels[digits == 8] = 20
    levels[(digits == 7) & (np.arange(SEEDS) > 100)] = 0
    return SeedIndex(digits, levels)


def test_the_first_seeds_from_the_start_are_chosen() -> None:
    index = make()
    assert index.choose([3, 3, 3], 0, 40) == [3, 13, 23]
    assert index.choose([3, 3, 3], 4, 40) == [13, 23, 33]
    assert index.choose([3, 1, 3], 4, 40) == [13, 11, 23]  # each in its place


def test_after_the_last_seed_comes_the_first() -> None:
    assert make().choose([3, 3, 3], SEEDS - 14, 40) == [SEEDS - 13, SEEDS - 3, 3]  # 65,523 and 65,533


def test_no_seed_is_chosen_twice() -> None:
    chosen = make().choose([2] * 1024, 60_000, 40)
    assert len(set(chosen)) == 1024


def test_what_is_not_drawn_often_enough_is_an_error_with_figures() -> None:
    index = make()
    assert index.choose([7] * 10, 50, 40) == [57, 67, 77, 87, 97, 7, 17, 27, 37, 47]
    with pytest.raises(TooFewError, match=r"10 of 65,536 images are a 7 at this confidence, 11 are wanted"):
        index.choose([7] * 11, 50, 40)
    with pytest.raises(TooFewError, match="0 of"):
        index.choose([8], 0, 40)
    assert index.choose([8], 0, 20) == [8]


def test_an_index_is_the_same_after_saving(tmp_path: Path) -> None:
    seed_index.save(tmp_path, "name", index := make())
    saved = seed_index.load(tmp_path, "name")
    assert saved
    assert (saved.digits == index.digits).all()
    assert (saved.levels == index.levels).all()
    assert seed_index.load(tmp_path, "other") is None


@pytest.mark.parametrize("place", [0, 20, 100, 5_000, -1])
@pytest.mark.parametrize("damage", ["flip", "cut", "add"])
def test_a_damaged_index_is_noticed(tmp_path: Path, place: int, damage: str) -> None:
    seed_index.save(tmp_path, "name", make_noise())
    path = tmp_path / seed_index.FOLDER / "name"
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[place] ^= 0xFF
    elif damage == "cut":
        del data[place:]
    else:
        data += bytes(2**20)
    path.write_bytes(data)
    with pytest.raises(InvalidIndexError):
        seed_index.load(tmp_path, "name")


def make_noise() -> SeedIndex:
    numbers = np.random.default_rng(0).integers(0, 10, (2, SEEDS), np.uint8)
    return SeedIndex(numbers[0], numbers[1])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_the_shipped_indexes_say_what_the_images_show(folder: Path) -> None:
    manifest = read_manifest(folder)
    index = seed_index.load(versions.PRETRAINED, seed_index.make_name(manifest))
    assert index
    some = [*range(64), *range(SEEDS - 64, SEEDS)]
    digits, levels = readers.read(make_draw(manifest, folder)(some))
    # Another processor may round a grey level otherwise, and so an image that is nearly something else.
    assert (digits == index.digits[some]).mean() > 0.98
    assert (np.abs(levels.astype(int) - index.levels[some]) <= 2).mean() > 0.98


def test_no_other_index_is_shipped() -> None:
    names = {seed_index.make_name(read_manifest(folder)) for folder in FOLDERS}
    assert {path.name for path in (versions.PRETRAINED / seed_index.FOLDER).iterdir()} == names


def make_draw(manifest: Manifest, folder: Path) -> "Draw":
    _, network = versions.read_generator(folder)
    return Draw(manifest, Inference(network, manifest.latent_shape, torch.device("cpu")))


class Draw:
    def __init__(self, manifest: Manifest, inference: Inference) -> None:
        self.manifest, self.inference = manifest, inference

    def __call__(self, seeds: Sequence[int]) -> np.ndarray:
        z = sampling.make_latents(seeds, self.manifest.latent_shape, self.manifest.latents)
        return np.concatenate([self.inference(some).numpy() for some in z.split(BATCH)])


def test_building_reads_every_seed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_index, "SEEDS", 96)
    asked: list[int] = []

    def draw(seeds: Sequence[int]) -> np.ndarray:
        asked.extend(seeds)
        return np.zeros((len(seeds), 28, 28), np.uint8)

    index = seed_index.build(draw, 32, lambda: True)
    assert index
    assert asked == list(range(96))
    assert index.digits.shape == index.levels.shape == (96,)
    assert seed_index.build(draw, 32, lambda: False) is None
    assert asked == list(range(96))
