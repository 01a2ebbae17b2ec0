"""Walks among the latents of a version. They draw as a version does, but a number is a step and not a seed.

So the engine draws them like other pictures, in its passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from app.entries import LoadedVersion
from app.rendering import Images
from models import sampling, seeds

AROUND = 8  # neighbours: with the digit itself they fill 3 × 3
NEAR = 0.3  # of the way to another digit: neighbours differ, and are still the same digit


@dataclass(frozen=True, eq=False)
class Morph:
    """The way from the digit of one seed to that of another, in ``frames`` steps: 0 is the first digit."""

    version: LoadedVersion
    first: int
    last: int
    frames: int

    @property
    def arch(self) -> str:
        return self.version.arch

    def draw(self, steps: Sequence[int], /) -> Images:
        """One image per step, ``[len(steps), 28, 28]``. The ends are the images of their seeds, bit for bit."""
        first, last = self.version.make_latents([self.first, self.last])
        shares = [step / (self.frames - 1) for step in steps]
        return self.version.draw_latents(sampling.join_latents(first, last, shares, self.version.manifest.latents))


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The digit of a seed among ``AROUND`` others whose latents are near to its own: step 4 is the digit itself.

    The others lie on the ways to the digits of the next seeds.
    """

    version: LoadedVersion
    seed: int

    @property
    def arch(self) -> str:
        return self.version.arch

    def draw(self, steps: Sequence[int], /) -> Images:
        """One image per step, ``[len(steps), 28, 28]``. Thread-safe."""
        following = [(self.seed + number) % (seeds.MAX_SEED + 1) for number in range(1, AROUND + 1)]
        z, *others = self.version.make_latents([self.seed, *following])
        near = sampling.find_neighbours(z, torch.stack(others), NEAR, self.version.manifest.latents)
        all_steps = torch.cat([near[: AROUND // 2], z[None], near[AROUND // 2 :]])
        return self.version.draw_latents(all_steps[list(steps)])
