import numpy as np
import pytest
import torch

from models import classifier, mnist, readers
from worker.settings import Settings

DATA = Settings().data_dir


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return mnist.load(DATA, mnist.TEST_IMAGES).numpy()


def test_both_readers_read_the_test_images(images: np.ndarray) -> None:
    labels = mnist.load_labels(DATA, mnist.TEST_LABELS)
    second = classifier.load_network(readers.SecondReader, readers.SECOND)
    found = classifier.accuracy(second, torch.from_numpy(images), labels)
    assert found >= 0.99
    assert found == pytest.approx(classifier.facts(readers.SECOND).test_accuracy, abs=3e-4)
    digits, levels = readers.read(images)
    right = digits == labels.numpy()
    assert right.mean() > 0.994
    assert right[levels >= readers.find_level(0.9)].mean() > 0.998  # where they are sure, they are right


def test_an_image_is_read_alike_whatever_its_neighbours_are(images: np.ndarray) -> None:
    together = readers.read(images[:50])
    alone = [readers.read(images[index : index + 1]) for index in range(50)]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert (whole == np.concatenate(parts)).all()


def test_confidence_is_the_mean_of_both_readers_rounded_down(images: np.ndarray) -> None:
    some = torch.from_numpy(images[:2_000])
    probabilities = torch.stack(
        [
            network(mnist.scale(some).unsqueeze(1)).softmax(dim=1)[:, :10]
            for network in (classifier.load(), classifier.load_network(readers.SecondReader, readers.SECOND))
        ]
    )
    digits, levels = readers.read(images[:2_000])
    mean = probabilities.mean(dim=0)[torch.arange(2_000), torch.from_numpy(digits).long()].numpy()
    told = np.array([readers.find_confidence(level) for level in levels.tolist()])
    assert (told <= mean + 1e-4).all()
    assert (told >= np.minimum(mean, 0.999) - 0.06 * (1 - mean) - 1e-4).all()  # to the next level


@pytest.mark.parametrize(("confidence", "level"), [(0.0, 0), (0.5, 13), (0.9, 40), (0.99, 80), (0.999, 120)])
def test_levels_are_steps_of_confidence(confidence: float, level: int) -> None:
    assert readers.find_level(confidence) == level
    assert readers.find_confidence(level) >= confidence - 1e-9
    assert level == 0 or readers.find_confidence(level - 1) < confidence


def test_what_is_no_digit_is_read_without_confidence() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 28, 28), np.uint8)
    _, levels = readers.read(noise)
    assert (levels >= readers.find_level(0.9)).mean() < 0.2
