"""Measure a generator by its images of the seeds 0, 1, 2, …, as every version is measured.

:mod:`models.metrics` knows images only; this draws them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from models import classifier, mnist, sampling

if TYPE_CHECKING:
    from models import metrics

Measure = Callable[[nn.Module], dict[str, float]]  # a generator in eval mode → its metrics


def find_test_sha256(data_dir: Path) -> str | None:
    """The SHA-256 of the test images of a data set; None if they are MNIST's.

    Raises:
        mnist.DatasetError: they are missing or damaged.
    """
    _, found = mnist.load_summed(data_dir, mnist.TEST_IMAGES)
    return None if found == mnist.SHA256[mnist.TEST_IMAGES] else found


def make_measure(latent_shape: tuple[int, ...], latents: str, data_dir: Path) -> Measure:
    """A function that measures a generator of latents of this shape and distribution.

    A measurement takes about ten seconds.

    Raises:
        mnist.DatasetError: the test images are missing or damaged.
    """
    test_images = mnist.load(data_dir, mnist.TEST_IMAGES)
    real: list[metrics.Real] = []  # empty until the first measurement, since it takes seconds to make

    def measure(G: nn.Module) -> dict[str, float]:
        from models import metrics  # here: it takes a second, and no run should wait for it at its start

        if not real:
            real.append(metrics.Real.of(test_images, classifier.load()))
        z = sampling.make_latents(range(metrics.IMAGES), latent_shape, latents)
        return metrics.measure(torch.cat([sampling.draw(G, some) for some in z.split(1_000)]), real[0])

    return measure
