"""Which digit an image shows, and how sure that is: two networks of different shapes read it.

The first reader is the classifier of the metrics. The second one is smaller, without pooling, and was
trained apart from it, so the two err on different images. One classifier alone is sure of more wrong digits:
docs/measurements.md. The second one also knows an eleventh class, what is no digit: a classifier of digits alone
is sure to see one in any noise (outlier exposure, Hendrycks et al. 2019, arXiv:1812.04606).

A confidence is kept as a *level*, one byte, on a logarithmic scale as the quality scores of DNA sequencing
(Ewing and Green 1998): level = −40 · log₁₀(1 − confidence), rounded down. 0.9 is level 40, 0.99 is 80.

    digits train-classifier --second
"""

import hashlib
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from models import classifier, mnist, sampling
from models.archs import ARCHS

SECOND = classifier.CLASSIFIER.with_name("second_reader.safetensors")

NO_DIGIT = 10  # the class of the second reader
EPOCHS = 16  # of the second reader's training

STEPS = 40  # levels for each factor of ten
MAX_LEVEL = 120  # a confidence of 0.999; more is not told apart

_BATCH = 16  # of a pass: of one size, so that an image is read the same whatever its neighbours are

Reading = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # digits and levels, [n] each


class SecondReader(nn.Sequential):
    """``[n, 1, 28, 28]`` in −1…1 → logits ``[n, 11]``, by strided convolutions. The last class: no digit."""

    def __init__(self) -> None:
        super().__init__(
            *_block(1, 16, 5),  # [n, 16, 14, 14]
            *_block(16, 32, 5),  # [n, 32, 7, 7]
            *_block(32, 48, 3),  # [n, 48, 4, 4]
            nn.Flatten(),
            nn.Linear(48 * 4 * 4, 48),
            nn.ReLU(),
            nn.Linear(48, 11),
        )


def _block(channels_in: int, channels_out: int, size: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, size, stride=2, padding=size // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


def train_second(
    images: Tensor, labels: Tensor, *, epochs: int, seed: int, on_progress: Callable[[int, int], None]
) -> SecondReader:
    """Train the second reader, as :func:`models.classifier.train`, with more images that are no digits."""
    outliers = make_outliers(images, seed)
    return classifier.train(
        SecondReader,
        torch.cat([images, outliers]),
        torch.cat([labels, torch.full((len(outliers),), NO_DIGIT)]),
        epochs=epochs,
        seed=seed,
        on_progress=on_progress,
    )


def make_outliers(images: Tensor, seed: int) -> Tensor:
    """Images ``[m, 28, 28]`` uint8 that are no digits, m about a seventh of ``len(images)``, of several kinds."""
    source = torch.Generator().manual_seed(seed)
    n = len(images) // 30 // len(ARCHS) * len(ARCHS)  # of each kind
    density = torch.rand(n, 1, 1, generator=source)
    grains = 255 * torch.rand(n, 28, 28, generator=source) * (torch.rand(n, 28, 28, generator=source) < density)
    clouds = interpolate(255 * torch.rand(n, 1, 5, 5, generator=source), size=28, mode="bilinear")[:, 0]
    chosen = images[torch.randint(len(images), (n,), generator=source)].float()
    order = torch.rand(n, 784, generator=source).argsort(dim=1)
    shuffled = chosen.flatten(1).gather(1, order).view(n, 28, 28)
    untrained = [_draw_untrained(arch, n // len(ARCHS), source) for arch in ARCHS]
    return torch.cat([grains, clouds, shuffled, *untrained]).to(torch.uint8)


def _draw_untrained(arch: str, count: int, source: torch.Generator) -> Tensor:
    """What generators draw before they are trained, ten images each."""
    drawn = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for _ in range(count // 10 + 1):
            torch.manual_seed(int(torch.randint(2**31, (), generator=source)))
            G = ARCHS[arch].generator()
            drawn.append(sampling.to_levels(G(torch.randn(10, *ARCHS[arch].latent_shape)).view(10, 28, 28)))
    return torch.cat(drawn)[:count].clamp(0, 255)


@torch.inference_mode()
def read(images: NDArray[np.uint8]) -> Reading:
    """The digits 0…9 and the levels of images ``[n, 28, 28]``; 0 is background, 255 is ink.

    The digit is the most probable one in the mean of both readers, and that mean is its confidence.
    """
    pixels = mnist.scale(torch.from_numpy(images)).unsqueeze(1)
    read = [_read_batch(chunk) for chunk in pixels.split(_BATCH)]
    digits, confidences = (torch.cat(parts) for parts in zip(*read, strict=True))
    return digits.numpy().astype(np.uint8), _make_levels(confidences.numpy())


def _read_batch(pixels: Tensor) -> tuple[Tensor, Tensor]:
    n = len(pixels)
    pixels = pad(pixels, (0, 0, 0, 0, 0, 0, 0, _BATCH - n))
    probabilities = torch.stack([reader(pixels)[:n].softmax(dim=1)[:, :10] for reader in _load()])  # [2, n, 10]
    confidences, digits = probabilities.mean(dim=0).max(dim=1)
    return digits, confidences


def _make_levels(confidences: NDArray[np.float32]) -> NDArray[np.uint8]:
    doubts = np.maximum(1 - confidences.astype(np.float64), 10 ** (-MAX_LEVEL / STEPS))
    return np.floor(-STEPS * np.log10(doubts) + 1e-9).astype(np.uint8)


def find_level(confidence: float) -> int:
    """The lowest level of at least this confidence, 0…0.999."""
    return math.ceil(-STEPS * math.log10(1 - confidence) - 1e-6)


def find_confidence(level: int) -> float:
    """The lowest confidence of a level, rounded down to five places."""
    return math.floor(1e5 * (1 - 10 ** (-level / STEPS)) + 1e-6) / 1e5


@cache
def sha256() -> str:
    """A sum that changes with any weight of the readers."""
    return hashlib.sha256((classifier.sha256() + classifier.sha256(SECOND)).encode()).hexdigest()


@cache
def _load() -> tuple[nn.Module, nn.Module]:
    return classifier.load(), classifier.load_network(SecondReader, SECOND)
