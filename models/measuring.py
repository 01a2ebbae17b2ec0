"""Measure a generator by its images of the seeds 0, 1, 2, …, as every version is measured.

:mod:`models.metrics` knows images only; this draws them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models import classifier, mnist, sampling

if TYPE_CHECKING:
    from models import metrics

Measure = Callable[[nn.Module], dict[str, float]]  # a generator in eval mode → its metrics


def load_test(data_dir: Path) -> tuple[Tensor, str | None]:
    """The test images of a data set ``[n, 28, 28]`` uint8, and the SHA-256 of their file; None if it is MNIST's.

    Raises:
        mnist.DatasetError: they are missing or damaged.
    """
    images, found = mnist.load_summed(data_dir, mnist.TEST_IMAGES)
    return images, None if found == mnist.SHA256[mnist.TEST_IMAGES] else found


def make_measure(latent_shape: tuple[int, ...], latents: str, test_images: Tensor) -> Measure:
    """A function that measures a generator of latents of this shape and distribution.

    A measurement takes about ten seconds.
    """
    real: list[metrics.Real] = []  # empty until the first measurement, since it takes seconds to make

    def measure(G: nn.Module) -> dict[str, float]:
        from models import metrics  # here: it takes a second, and no run should wait for it at its start

        if not real:
            real.append(metrics.Real.of(test_images, classifier.load()))
        z = sampling.make_latents(range(metrics.IMAGES), latent_shape, latents)
        return metrics.measure(torch.cat([sampling.draw(G, some) for some in z.split(1_000)]), real[0])

    return measure
