"""One training step: the discriminator takes one or more steps on real images, then the generator takes one.

Losses are in ``worker.objectives``; the loop over steps and epochs is ``worker.training``. What
changes from one step to the next, such as the learning rates, is in ``worker.schedules``.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import update_bn

from models import mnist, sampling
from models.archs import ARCHS, Arch
from models.device import multiplies_bfloat16
from worker.cuda_graphs import RecordedStep, TrainStep
from worker.objectives import OBJECTIVES, PENALTIES
from worker.recipes import Recipe

_CALIBRATION = 1_024  # real images for the batch statistics of a discriminator in eval mode


@dataclass
class Networks:
    """The two networks of a run, their optimisers, and how images go through them."""

    recipe: Recipe
    arch: Arch
    G: nn.Module
    D: nn.Module
    g_optimizer: Optimizer
    d_optimizer: Optimizer
    device: torch.device
    bfloat16: bool  # multiply in bfloat16; weights, losses and the optimisers' steps stay float32
    d_sees_batches: bool  # D(image) depends on its batch: real and fake images go in separate batches

    def make_latents(self, count: int) -> Tensor:
        return sampling.LATENTS[self.recipe.latents](count, *self.arch.latent_shape, device=self.device)

    def draw_fake(self, count: int) -> Tensor:
        return self._pass_through(self.G, self.make_latents(count))

    def judge(self, images: Tensor) -> Tensor:
        """D(images), ``[n, 1]`` or ``[n, 1, 1, 1]``."""
        return self._pass_through(self.D, images)

    def judge_both(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        if self.d_sees_batches:
            return self.judge(real), self.judge(fake)
        d_real, d_fake = self.judge(torch.cat([real, fake])).split(len(real))
        return d_real, d_fake

    def _pass_through(self, network: nn.Module, batch: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            out: Tensor = network(batch)
        return out.float()


def make_networks(recipe: Recipe, images: Tensor, device: torch.device) -> Networks:
    """New networks for ``recipe``, from torch's random state; ``images`` is ``[n, 28, 28]`` uint8 on ``device``."""
    arch = ARCHS[recipe.arch]
    G, D = arch.generator(), arch.discriminator(recipe.sigmoid)
    for network in (G, D):
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster
    if recipe.d_eval:
        some = mnist.scale(images[torch.randperm(len(images), device=device)[:_CALIBRATION]])
        update_bn([some.view(-1, *arch.image_shape)], D)
        D.eval()
    return Networks(
        recipe=recipe,
        arch=arch,
        G=G,
        D=D,
        g_optimizer=_make_optimizer(G, recipe.lr_g, recipe.betas, device),
        d_optimizer=_make_optimizer(D, recipe.lr_d, recipe.betas, device),
        device=device,
        bfloat16=trains_in_bfloat16(arch, device),
        d_sees_batches=D.training and any(isinstance(module, nn.BatchNorm2d) for module in D.modules()),
    )


def make_step(networks: Networks) -> TrainStep:
    """The training step. On a GPU, make it again when a network has changed its mode."""
    step = partial(_train_step, networks)
    if networks.device.type != "cuda":
        return step
    recipe = networks.recipe  # after so many steps of G, the penalty is due at the same steps of D again
    return RecordedStep(step, phases=recipe.penalty_every // math.gcd(recipe.penalty_every, recipe.d_steps))


def trains_in_bfloat16(arch: Arch, device: torch.device) -> bool:
    """Whether training multiplies in bfloat16 on ``device``; its weights are float32 in any case."""
    return arch.bfloat16 and multiplies_bfloat16(device)


def make_rate(lr: float, device: torch.device) -> float | Tensor:
    """A learning rate for ``device``. A CUDA graph keeps a recorded number, but reads a tensor again each time."""
    return torch.tensor(lr, device=device) if device.type == "cuda" else lr


def _make_optimizer(network: nn.Module, lr: float, betas: tuple[float, float], device: torch.device) -> Optimizer:
    cuda = device.type == "cuda"
    return Adam(network.parameters(), lr=make_rate(lr, device), betas=betas, fused=True, capturable=cuda)


def _train_step(networks: Networks, number: int, real: Tensor) -> Tensor:
    """The discriminator's steps, then one step of the generator; ``number`` counts from 0.

    ``real`` has ``images_per_step`` images.

    Returns ``[4]`` on the device, so that no step waits for it: d_loss, d_real, d_fake, g_loss.
    """
    recipe = networks.recipe
    batches = real.view(-1, *networks.arch.image_shape).split(recipe.batch)
    first = number * recipe.d_steps
    figures = [_d_step(networks, first + i, batches[i if recipe.d_fresh else 0]) for i in range(recipe.d_steps)]
    return torch.cat([torch.stack(figures).mean(dim=0), _g_step(networks, recipe.batch).view(1)])


def _d_step(networks: Networks, number: int, real: Tensor) -> Tensor:
    recipe = networks.recipe
    with torch.no_grad():  # G learns nothing here: no graph through it
        fake = networks.draw_fake(len(real))
    d_real, d_fake = networks.judge_both(real, fake)
    objective = OBJECTIVES[recipe.objective]
    loss = objective.d_loss(d_real, d_fake)
    if recipe.penalty_weight and number % recipe.penalty_every == 0:
        penalty = PENALTIES[recipe.penalty](networks.judge, real, fake)
        loss = loss + recipe.penalty_weight * recipe.penalty_every * penalty
    networks.d_optimizer.zero_grad()
    loss.backward()
    networks.d_optimizer.step()
    with torch.no_grad():
        return torch.stack([loss, objective.to_output(d_real).mean(), objective.to_output(d_fake).mean()])


def _g_step(networks: Networks, count: int) -> Tensor:
    networks.D.requires_grad_(False)  # D only judges: no gradients for its weights
    loss = OBJECTIVES[networks.recipe.objective].g_loss(networks.judge(networks.draw_fake(count)))
    networks.g_optimizer.zero_grad()
    loss.backward()
    networks.g_optimizer.step()
    networks.D.requires_grad_(True)
    return loss.detach()
