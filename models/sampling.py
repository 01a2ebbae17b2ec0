"""From seeds to images: latents, then a generator, then grey levels.

Image *i* of a request depends only on its own seed: each seed has its own random generator for the
latents. :func:`draw` is slow. It always uses batches of one shape, since a matrix product may round
differently for another shape. :mod:`models.inference` is the fast way for the service.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CHUNK = 16  # images per forward pass; fewer are padded

CONTRAST = 1.03  # of a drawn image: tanh only comes near −1 and 1, but real digits reach them

_CATEGORIES = 32  # at most, and no more than half of the latents
_CATEGORY_SIZE = 6.0  # beside noise of standard deviation 1


@dataclass(frozen=True)
class Distribution:
    """A distribution of latents: noise, and a function that forms each row of it."""

    noise: Callable[..., Tensor]  # fills a tensor: Tensor.uniform_ or Tensor.normal_
    form: Callable[[Tensor], Tensor]

    def __call__(self, *shape: int, **where: Any) -> Tensor:
        """Latents ``[n, size, …]``."""
        return self.form(self.noise(torch.empty(*shape, **where)))


def _spread(noise: Tensor) -> Tensor:
    """0…1 → −1…1."""
    return noise.mul_(2).sub_(1)


def _categorise(noise: Tensor) -> Tensor:
    """One of 32 categories (of ``size // 2`` if that is less), one-hot, then normal noise.

    A generator is continuous: if its latents are connected, it also draws shapes between two digits.
    After InfoGAN's categorical codes (arXiv:1606.03657), without its loss; see also arXiv:1806.00880.
    """
    codes = noise[:, : min(_CATEGORIES, noise.shape[1] // 2)]
    codes.copy_(codes == codes.amax(dim=1, keepdim=True)).mul_(_CATEGORY_SIZE)  # the largest value chooses the category
    return noise


LATENTS: Mapping[str, Distribution] = {
    "uniform": Distribution(Tensor.uniform_, _spread),
    "normal": Distribution(Tensor.normal_, lambda noise: noise),
    "mixture": Distribution(Tensor.normal_, _categorise),
}


def make_latents(seeds: Sequence[int], shape: tuple[int, ...], distribution: str) -> Tensor:
    """Latents ``[len(seeds), *shape]`` float32 on the CPU; row *i* is a function of ``seeds[i]``.

    Raises:
        KeyError: ``distribution`` is not in :data:`LATENTS`.
    """
    draw = LATENTS[distribution]
    source = torch.Generator()
    noise = torch.empty(len(seeds), *shape)
    for row, seed in zip(noise, seeds, strict=True):
        draw.noise(row, generator=source.manual_seed(seed))
    return draw.form(noise)


@torch.inference_mode()
def draw(G: nn.Module, z: Tensor) -> Tensor:
    """Latents ``[n, …]`` through ``G`` (in eval mode): ``[n, 28, 28]`` uint8 on the CPU."""
    device = next(G.parameters()).device
    drawn = []
    for chunk in z.split(_CHUNK):
        padded = torch.zeros(_CHUNK, *z.shape[1:])
        padded[: len(chunk)] = chunk
        pixels = G(padded.to(device)).view(_CHUNK, 28, 28)[: len(chunk)]
        drawn.append(to_uint8(pixels).cpu())
    return torch.cat(drawn)


def to_uint8(pixels: Tensor) -> Tensor:
    """−1…1 → 0…255, rounded to the nearest grey level. The last 3 % at each end become black or white."""
    return round_levels(to_levels(pixels))


def to_levels(pixels: Tensor) -> Tensor:
    """−1…1 → grey levels a little beyond 0…255."""
    return pixels.mul(127.5 * CONTRAST).add_(127.5)


def round_levels(levels: Tensor) -> Tensor:
    """The nearest grey levels, uint8."""
    return levels.round().clamp_(0, 255).to(torch.uint8)
