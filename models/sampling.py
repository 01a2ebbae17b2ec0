"""From seeds to images: latents, then a generator, then grey levels. And latents between others.

Image *i* of a request depends only on its own seed: each seed has its own random generator for the
latents. :func:`draw` is slow. It always uses batches of one shape, since a matrix product may round
differently for another shape. :mod:`models.inference` is the fast way for the service.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CHUNK = 16  # images per forward pass; fewer are padded

CONTRAST = 1.03  # of a drawn image: tanh only comes near −1 and 1, but real digits reach them

_CATEGORIES = 32  # at most, and no more than half of the latents
_CATEGORY_SIZE = 6.0  # beside noise of standard deviation 1

_PARALLEL = 1 - 1e-9  # a cosine beyond which two vectors have one direction, or opposite ones


@dataclass(frozen=True)
class Distribution:
    """A distribution of latents: noise, and a function that forms each row of it."""

    noise: Callable[..., Tensor]  # fills a tensor: Tensor.uniform_ or Tensor.normal_
    form: Callable[[Tensor], Tensor]
    count_codes: Callable[[int], int]  # the size of a latent → how many of its first values are the category

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
    codes = noise[:, : _count_categories(noise.shape[1])]
    codes.copy_(codes == codes.amax(dim=1, keepdim=True)).mul_(_CATEGORY_SIZE)  # the largest value chooses the category
    return noise


def _count_categories(size: int) -> int:
    return min(_CATEGORIES, size // 2)


# fmt: off
LATENTS: Mapping[str, Distribution] = {
    #                       noise            form                  codes
    "uniform": Distribution(Tensor.uniform_, _spread,              lambda _: 0),
    "normal":  Distribution(Tensor.normal_,  lambda noise: noise,  lambda _: 0),
    "mixture": Distribution(Tensor.normal_,  _categorise,          _count_categories),
}
# fmt: on


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


def join_latents(first: Tensor, last: Tensor, shares: Sequence[float], distribution: str) -> Tensor:
    """Latents ``[len(shares), *shape]`` on the way from ``first`` to ``last``, each ``[*shape]``.

    A share in 0…1 says how far: 0 gives exactly ``first``, and 1 exactly ``last``. The way is an arc, not a
    straight line: the middle of a line would be shorter than any latent that a generator has learned from
    (White 2016, arXiv:1609.04468). The codes of a mixture have an arc of their own, so that one digit slowly
    becomes the other. To change the category at once, in the middle, gives cleaner digits, but the picture jumps.

    Raises:
        KeyError: ``distribution`` is not in :data:`LATENTS`.
    """
    codes = LATENTS[distribution].count_codes(len(first))
    parts = [_follow_arc(first[part], last[part], shares) for part in (slice(codes), slice(codes, None))]
    return torch.cat(parts, dim=1)


def find_neighbours(z: Tensor, others: Tensor, share: float, distribution: str) -> Tensor:
    """Latents ``[n, *shape]`` near ``z``: a ``share`` of the way to each of the ``others``, which are ``[n, *shape]``.

    All keep the category of ``z``. The way is that of :func:`join_latents`.

    Raises:
        KeyError: ``distribution`` is not in :data:`LATENTS`.
    """
    codes = LATENTS[distribution].count_codes(len(z))
    ends = [torch.cat([z[:codes], other[codes:]]) for other in others]
    return torch.cat([join_latents(z, end, [share], distribution) for end in ends])


def _follow_arc(first: Tensor, last: Tensor, shares: Sequence[float]) -> Tensor:
    """Spherical interpolation (slerp): ``[len(shares), *shape]``. Vectors of one direction are joined by a line."""
    a, b = first.flatten().double(), last.flatten().double()
    cosine = float(a @ b / (a.norm() * b.norm())) if len(a) else 1.0
    angle = math.acos(cosine) if abs(cosine) < _PARALLEL else 0.0
    joined = []
    for share in shares:
        ways = [math.sin(part * angle) / math.sin(angle) if angle else part for part in (1 - share, share)]
        joined.append(ways[0] * a + ways[1] * b)
    return torch.stack(joined).view(len(shares), *first.shape).to(first.dtype)


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
