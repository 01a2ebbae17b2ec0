"""The architectures: one row each. A new architecture is one more row.

The distribution of the latents is not here, since each recipe chooses its own; a version's manifest
names it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from models.networks import (
    dcgan_discriminator,
    dcgan_generator,
    vanilla_discriminator,
    vanilla_generator,
    wgan_discriminator,
    wgan_generator,
)


@dataclass(frozen=True)
class Arch:
    """A pair of networks and the shapes they work on (without the batch dimension)."""

    name: str
    generator: Callable[[], nn.Sequential]
    discriminator: Callable[[bool], nn.Sequential]  # takes: does it end in a Sigmoid?
    latent_shape: tuple[int, ...]  # what the generator takes
    image_shape: tuple[int, ...]  # what the generator gives and the discriminator takes
    bfloat16: bool  # is training faster with it if the hardware has it? see docs/trials.md


# fmt: off
_ROWS = (
    Arch("vanilla", vanilla_generator, vanilla_discriminator, ( 20,),      (784,),      False),
    Arch("dcgan",   dcgan_generator,   dcgan_discriminator,   (100, 1, 1), (1, 28, 28), True),
    Arch("wgan",    wgan_generator,    wgan_discriminator,    (100, 1, 1), (1, 28, 28), True),
)
# fmt: on

ARCHS: Mapping[str, Arch] = MappingProxyType({arch.name: arch for arch in _ROWS})
