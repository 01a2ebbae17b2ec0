"""From seeds to images: latents, then a generator, then grey levels.

Image *i* of a request depends on its own seed alone, never on its neighbours. Two things see to
it: the latents of each image come from a generator of its own, and the network always runs on
batches of one fixed shape, since a matrix product may round differently for another.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

BATCH = 16  # images a forward pass; smaller requests are padded

LATENTS: Mapping[str, Callable[..., Tensor]] = {
    "uniform": lambda *shape, **where: torch.rand(*shape, **where).mul_(2).sub_(1),  # −1…1
    "normal": torch.randn,
}


def latents(seeds: Sequence[int], shape: tuple[int, ...], distribution: str) -> Tensor:
    """Latents ``[len(seeds), *shape]`` float32 on the CPU; row *i* is a function of ``seeds[i]``.

    Raises:
        KeyError: ``distribution`` is not in :data:`LATENTS`.
    """
    draw = LATENTS[distribution]
    source = torch.Generator()
    return torch.stack([draw(*shape, generator=source.manual_seed(seed)) for seed in seeds])


@torch.inference_mode()
def images(G: nn.Module, z: Tensor) -> Tensor:
    """Latents ``[n, …]`` through ``G`` (in eval mode): ``[n, 28, 28]`` uint8 on the CPU."""
    device = next(G.parameters()).device
    drawn = []
    for chunk in z.split(BATCH):
        padded = torch.zeros(BATCH, *z.shape[1:])
        padded[: len(chunk)] = chunk
        pixels = G(padded.to(device)).view(BATCH, 28, 28)[: len(chunk)]
        drawn.append(to_uint8(pixels).cpu())
    return torch.cat(drawn)


def to_uint8(pixels: Tensor) -> Tensor:
    """−1…1 → 0…255, rounded to the nearest grey level."""
    return pixels.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
