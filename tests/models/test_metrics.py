"""Real images score near the floor, and each fault of generated images shows in its own metric."""

import math

import pytest
import torch
from torch import Tensor

from models import classifier, metrics, mnist
from worker.settings import Settings

COUNT = 2_000  # images per side: enough to see a difference, and quick


@pytest.fixture(scope="module")
def real() -> metrics.Real:
    images = mnist.load(Settings().data_dir, mnist.TEST_IMAGES)
    return metrics.Real.of(metrics.sample(images, COUNT), classifier.load())


@pytest.fixture(scope="module")
def train_images() -> Tensor:
    return metrics.sample(mnist.load(Settings().data_dir), COUNT)


@pytest.fixture(scope="module")
def floor(train_images: Tensor, real: metrics.Real) -> dict[str, float]:
    return metrics.measure(train_images, real)


def noisy(images: Tensor, share: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 255 * share
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def test_real_images_are_near_the_best(floor: dict[str, float]) -> None:
    assert floor["fid"] < 5
    assert min(floor["precision"], floor["recall"]) > 0.75
    assert floor["class_balance"] > 0.99
    assert floor["smallest_class"] > 0.08
    assert floor["confidence"] > 0.99


def test_an_image_is_at_no_distance_from_itself(real: metrics.Real) -> None:
    same = metrics.measure(real.images, real)
    assert same["fid"] == pytest.approx(0, abs=1e-2)
    assert (same["precision"], same["recall"]) == (1, 1)
    assert same["emd"] == pytest.approx(0, abs=1e-2)


def test_fid_rises_with_noise(train_images: Tensor, real: metrics.Real, floor: dict[str, float]) -> None:
    some, much = (metrics.measure(noisy(train_images, share), real) for share in (0.1, 0.3))
    assert floor["fid"] < some["fid"] < much["fid"]
    assert much["precision"] < some["precision"] < floor["precision"]
    assert floor["emd"] < some["emd"] < much["emd"]


def test_fid_rises_with_dropped_classes(train_images: Tensor, real: metrics.Real, floor: dict[str, float]) -> None:
    labels = metrics.sample(mnist.load_labels(Settings().data_dir), COUNT)
    nine, five = (metrics.measure(train_images[labels < classes], real) for classes in (9, 5))
    assert floor["fid"] < nine["fid"] < five["fid"]
    assert floor["class_balance"] > nine["class_balance"] > five["class_balance"]
    assert five["recall"] < nine["recall"] < floor["recall"]
    assert nine["smallest_class"] < floor["smallest_class"] / 2  # some images are classified as the missing class


def test_recall_falls_with_collapse_and_precision_does_not(
    train_images: Tensor, real: metrics.Real, floor: dict[str, float]
) -> None:
    collapsed = metrics.measure(train_images[:50].repeat(COUNT // 50, 1, 1), real)
    assert collapsed["recall"] < floor["recall"] / 2
    assert collapsed["precision"] > floor["precision"] - 0.15


def test_fid_of_gaussians_is_the_closed_form() -> None:
    source = torch.Generator().manual_seed(0)
    features = torch.randn(1_000, classifier.FEATURES, generator=source)
    assert metrics.fid(features + 2, features) == pytest.approx(4 * classifier.FEATURES, rel=1e-3)  # ‖μ₁ − μ₂‖²
    variance = features.double().var(dim=0).sum().item()
    spread = (features - features.mean(dim=0)) * 3 + features.mean(dim=0)
    assert metrics.fid(spread, features) == pytest.approx(4 * variance, rel=1e-3)  # Σ (3σ − σ)²


def test_coverage_of_points_on_a_line() -> None:
    points, others = torch.tensor([[0.0], [1.0], [5.0], [9.0]]), torch.tensor([[1.5], [10.0]])
    assert metrics.coverage(points, others, torch.tensor([0.5, 0.9])) == 0.25
    assert metrics.coverage(points, others, torch.tensor([1.5, 1.0])) == 0.75


def test_the_radius_reaches_the_third_neighbour() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]])
    assert metrics.find_radii(points).tolist() == [7.0, 6.0, 4.0, 7.0, 14.0]


def test_class_balance_of_known_shares() -> None:
    assert metrics.class_balance(torch.arange(10).repeat(7)) == pytest.approx(1)
    assert metrics.class_balance(torch.zeros(7, dtype=torch.long)) == 0
    assert metrics.class_balance(torch.tensor([0, 1])) == pytest.approx(math.log(2) / math.log(10))
    assert metrics.smallest_class(torch.tensor([0, 1])) == 0


def test_the_earth_movers_distance_of_a_case_by_hand() -> None:
    def images(*levels: int) -> Tensor:
        """One image per level; its first pixel has that level."""
        made = torch.zeros(len(levels), 28, 28, dtype=torch.uint8)
        made[:, 0, 0] = torch.tensor(levels)
        return made

    # 0→51 and 102→255 cost 0.2 + 0.6. In the given order, 0→255 and 102→51 would cost 1.0 + 0.2.
    assert metrics.earth_movers_distance(images(0, 102), images(255, 51)) == pytest.approx((0.2 + 0.6) / 2)
    # 255→255 and 51→51 cost nothing, so only 0→51 counts.
    assert metrics.earth_movers_distance(images(255, 0, 51), images(51, 255, 51)) == pytest.approx(0.2 / 3)


def test_the_distance_of_two_pixels_is_euclidean() -> None:
    one, other = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    other[0, 0, 0], other[0, 5, 5] = 153, 204
    assert metrics.earth_movers_distance(one, other) == pytest.approx(1.0)  # (0.6, 0.8)


def test_a_sample_is_the_same_every_time() -> None:
    numbers = torch.arange(100)
    assert metrics.sample(numbers, 10).equal(metrics.sample(numbers, 10))
    assert len(metrics.sample(numbers, 10).unique()) == 10
