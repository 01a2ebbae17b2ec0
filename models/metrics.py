"""How good a generator is: its images against MNIST's test images.

Every figure has a floor: the same figure for real training images, which no generator can be
expected to beat. Knows nothing of generators or versions: everything here is a function of
images and features.

Sources: FID, Heusel et al., arXiv:1706.08500, here in the features of ``models.classifier``;
improved precision and recall, Kynkäänniemi et al., arXiv:1904.06991.
"""

import math
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchmetrics.image.fid import FrechetInceptionDistance

from models.classifier import FEATURES, Classifier, classify

IMAGES = 10_000  # generated images that a version is measured on
NEIGHBOURS = 3  # k of precision and recall
EMD_IMAGES = 1_000  # on each side of the earth mover's distance; its time grows with their cube

_ROWS = 1_000  # of a matrix of distances at a time: limits memory to 40 MB


@dataclass(frozen=True)
class Real:
    """The real images that generated ones are compared with, and everything about them that is used again."""

    classifier: Classifier
    images: Tensor  # [m, 28, 28] uint8
    features: Tensor  # [m, 128]
    directions: Tensor  # [m, 128]: the features, of unit length
    radii: Tensor  # [m]: from each direction to its k-th nearest neighbour

    @classmethod
    def of(cls, images: Tensor, classifier: Classifier) -> "Real":
        features, _ = classify(classifier, images)
        directions = normalize(features)
        return cls(classifier, images, features, directions, find_radii(directions))


def measure(images: Tensor, real: Real) -> dict[str, float]:
    """All metrics of ``images`` (``[n, 28, 28]`` uint8), by their names in a manifest.

    ``fid`` and ``emd`` are distances (0: the same). The others are in 0…1 (1: best), except
    ``smallest_class``: its best value is that of the real images, at most 0.1.
    """
    features, probabilities = classify(real.classifier, images)
    directions = normalize(features)
    classes = probabilities.argmax(dim=1)
    return {
        "fid": fid(features, real.features),
        "precision": coverage(directions, real.directions, real.radii),
        "recall": coverage(real.directions, directions, find_radii(directions)),
        "class_balance": class_balance(classes),
        "smallest_class": smallest_class(classes),
        "confidence": probabilities.amax(dim=1).mean().item(),
        "emd": earth_movers_distance(sample(images, EMD_IMAGES), sample(real.images, EMD_IMAGES)),
    }


def fid(features: Tensor, real: Tensor) -> float:
    """Fréchet distance between two sets of features ``[n, 128]``, each treated as a Gaussian.

    ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2·(Σ₁Σ₂)^½), in float64. It is biased upwards for few images: compare
    only values of equal n.
    """
    distance = FrechetInceptionDistance(feature=_Features())
    distance.update(features, real=False)
    distance.update(real, real=True)
    found: float = distance.compute().item()
    return found


def coverage(points: Tensor, others: Tensor, radii: Tensor) -> float:
    """The share of ``points`` that lie within the radius of at least one of the ``others``.

    For generated ``points`` and real ``others`` this is the precision, the other way round the recall.
    Both use features of unit length. An image that is not a digit activates the classifier little: its
    plain features are near the origin, within the large radii of a few odd digits.
    """
    inside = [(torch.cdist(rows, others) <= radii).any(dim=1) for rows in points.split(_ROWS)]
    return torch.cat(inside).float().mean().item()


def class_balance(classes: Tensor) -> float:
    """Entropy of the classes' shares ÷ ln 10: 1 if all ten are equally frequent, 0 for one class."""
    shares = torch.bincount(classes, minlength=10) / len(classes)
    entropy: float = torch.special.entr(shares).sum().item()
    return entropy / math.log(10)


def smallest_class(classes: Tensor) -> float:
    """The share of the least frequent of the ten classes, in 0…0.1."""
    return torch.bincount(classes, minlength=10).min().item() / len(classes)


def earth_movers_distance(images: Tensor, real: Tensor) -> float:
    """inf over plans γ of E‖u − v‖ between equally many images ``[n, 28, 28]`` uint8, exactly.

    Pixels are in 0…1, ‖·‖ is Euclidean. Between equally many points of equal weight the best plan
    is an assignment. The time grows with n³: a second for n = 1,000.
    """
    costs = torch.cdist(images.flatten(1) / 255, real.flatten(1) / 255).double().numpy()
    rows, columns = linear_sum_assignment(costs)
    return float(costs[rows, columns].mean())


def find_radii(points: Tensor) -> Tensor:
    """``[n]``: the distance from each point to its k-th nearest neighbour, the point itself not counted."""
    nearest = [
        torch.cdist(rows, points).topk(NEIGHBOURS + 1, dim=1, largest=False).values[:, -1]
        for rows in points.split(_ROWS)
    ]
    return torch.cat(nearest)


def sample(images: Tensor, count: int) -> Tensor:
    """``count`` of the images, chosen at random, but the same ones every time.

    A regular choice would mislead, because MNIST's writers take turns: if every sixth training image
    is taken, the FID to the test images is eight times that of a random choice.
    """
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]]


class _Features(nn.Module):
    """Replaces the network that torchmetrics expects: the features are computed already."""

    num_features = FEATURES

    def forward(self, features: Tensor) -> Tensor:
        return features
