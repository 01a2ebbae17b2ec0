"""The training loop: two networks against each other, one epoch after the other.

Must not know who launched it: no Celery, no Redis, no environment, no files. Progress and the
wish to stop are callbacks.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import update_bn

from models import mnist, sampling
from models.archs import ARCHS, Arch
from models.device import multiplies_bfloat16
from worker.cuda_graphs import Recorded, TrainStep
from worker.objectives import OBJECTIVES, PENALTIES
from worker.recipes import Recipe

Weights = dict[str, Tensor]
Measure = Callable[[nn.Module], Mapping[str, float]]  # a generator in eval mode → its metrics

SAMPLES = 64  # images of the same latents, drawn after every epoch

_STATISTICS_BATCH, _STATISTICS_BATCHES = 250, 20  # fake images for the batch statistics of an average
_CALIBRATION = 1_024  # real images for the statistics of a discriminator that keeps them

# The share of the run that is left → the share of the learning rates that is used.
SCHEDULES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"constant": lambda left: 1.0, "linear": lambda left: left, "square": lambda left: left**2}
)


class TrainingError(Exception):
    """The run cannot give a usable generator; the message says why and what to do."""


@dataclass(frozen=True)
class Epoch:
    """What is recorded of one epoch; means are over its batches."""

    epoch: int  # from 1
    d_loss: float
    g_loss: float
    d_real: float  # mean D(real)
    d_fake: float  # mean D(fake)
    images_per_second: float
    seconds: float  # of training since the run began, without those spent on measuring
    metrics: Mapping[str, float] = field(default_factory=dict)  # where they were taken


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    epoch: int  # the one under way, from 1
    epochs: int
    step: int  # within the epoch, from 1
    steps: int  # an epoch
    images_per_second: float  # since the run began
    eta_seconds: float
    last: Epoch | None  # the last finished epoch


@dataclass
class Trained:
    """The run as its last finished epoch left it."""

    generator: Weights  # on the CPU; the average where the recipe keeps one
    discriminator: Weights
    samples: list[Tensor]  # an epoch each: [64, 28, 28] uint8
    history: list[Epoch]


@dataclass
class _Run:
    """The parts of a run that every step works on."""

    arch: Arch
    recipe: Recipe
    G: nn.Module
    D: nn.Module
    D_sees_batches: bool  # its verdict on an image depends on the others: real and fake ones go apart
    g_optimizer: Optimizer
    d_optimizer: Optimizer
    schedules: list[LambdaLR]
    average: nn.Module | None  # of G, where the recipe keeps one
    device: torch.device
    bfloat16: bool  # products in bfloat16; weights, losses and the optimisers' steps stay float32

    def latents(self, count: int) -> Tensor:
        return sampling.LATENTS[self.recipe.latents](count, *self.arch.latent_shape, device=self.device)

    def fake(self, count: int) -> Tensor:
        return self._through(self.G, self.latents(count))

    def verdict(self, images: Tensor) -> Tensor:
        return self._through(self.D, images)

    def judge(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        if self.D_sees_batches:
            return self.verdict(real), self.verdict(fake)
        d_real, d_fake = self.verdict(torch.cat([real, fake])).split(len(real))
        return d_real, d_fake

    def _through(self, network: nn.Module, batch: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            out: Tensor = network(batch)
        return out.float()

    @property
    def published_generator(self) -> nn.Module:
        return self.G if self.average is None else self.average


def train(
    *,
    recipe: Recipe,
    images: Tensor,
    seed: int,
    device: torch.device,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    measure: Measure | None = None,
    measure_every: int | None = None,
) -> Trained | None:
    """Train ``recipe`` on ``images`` (``[n, 28, 28]`` uint8) for ``recipe.epochs``.

    The same seed on the same CPU build with the same thread count gives the same weights, bit
    for bit. ``on_progress`` is called after every step and every epoch, ``should_stop`` before
    every step, ``measure`` after every ``measure_every`` epochs.

    Returns the state after the last finished epoch; None when it was stopped before the first.

    Raises:
        TrainingError: there are fewer images than one batch, or the losses are no longer finite.
    """
    steps = len(images) // recipe.batch
    if steps == 0:
        raise TrainingError(f"{len(images)} images do not fill one batch of {recipe.batch}")
    with _seeded(seed, device):
        images = images.to(device)
        run = _start(recipe, images, steps * recipe.epochs, device)
        train_step: TrainStep = partial(_train_step, run)
        if device.type == "cuda":
            train_step = Recorded(train_step, phases=recipe.penalty_every)
        fixed = sampling.latents(range(SAMPLES), run.arch.latent_shape, recipe.latents)
        trained: Trained | None = None
        began = time.perf_counter()
        for epoch in range(1, recipe.epochs + 1):
            epoch_began = time.perf_counter()
            sums = torch.zeros(4, device=device)  # d_loss, d_real, d_fake, g_loss
            for step, real in enumerate(mnist.batches(images, recipe.batch), start=1):
                if should_stop():
                    return trained
                number = (epoch - 1) * steps + step - 1
                sums += train_step(number, real)
                _settle(run, number)
                on_progress(_progress(recipe, epoch, step, steps, began, trained))
            trained = _end_epoch(run, fixed, trained, epoch, sums / steps, steps, began, epoch_began)
            if measure and measure_every and epoch % measure_every == 0:
                paused = time.perf_counter()
                trained.history[-1] = replace(trained.history[-1], metrics=measure(run.published_generator.eval()))
                run.published_generator.train()
                began += time.perf_counter() - paused
            on_progress(_progress(recipe, epoch, steps, steps, began, trained))
        return trained


def in_bfloat16(arch: Arch, device: torch.device) -> bool:
    """Whether :func:`train` multiplies in bfloat16 there; its weights are float32 all the same."""
    return arch.bfloat16 and multiplies_bfloat16(device)


def _progress(recipe: Recipe, epoch: int, step: int, steps: int, began: float, trained: Trained | None) -> Progress:
    done, seconds = (epoch - 1) * steps + step, time.perf_counter() - began
    return Progress(
        epoch=epoch,
        epochs=recipe.epochs,
        step=step,
        steps=steps,
        images_per_second=done * recipe.batch / seconds,
        eta_seconds=seconds / done * (recipe.epochs * steps - done),
        last=trained.history[-1] if trained else None,
    )


def _start(recipe: Recipe, images: Tensor, total_steps: int, device: torch.device) -> _Run:
    arch = ARCHS[recipe.arch]
    G, D = arch.generator(), arch.discriminator(recipe.sigmoid)
    for network in (G, D):
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # the faster one
    if recipe.d_eval:
        some = mnist.scaled(images[torch.randperm(len(images), device=device)[:_CALIBRATION]])
        update_bn([some.view(-1, *arch.image_shape)], D)
        D.eval()
    g_optimizer = _optimizer(G, recipe.lr_g, recipe.betas, device)
    d_optimizer = _optimizer(D, recipe.lr_d, recipe.betas, device)
    return _Run(
        arch=arch,
        recipe=recipe,
        G=G,
        D=D,
        D_sees_batches=D.training and any(isinstance(module, nn.BatchNorm2d) for module in D.modules()),
        g_optimizer=g_optimizer,
        d_optimizer=d_optimizer,
        schedules=[
            LambdaLR(optimizer, lambda step: SCHEDULES[recipe.schedule](1 - step / total_steps))
            for optimizer in (g_optimizer, d_optimizer)
        ],
        average=deepcopy(G) if recipe.ema else None,
        device=device,
        bfloat16=in_bfloat16(arch, device),
    )


@torch.no_grad()
def _average(share: float, number: int, averages: Iterable[Tensor], weights: Iterable[Tensor]) -> None:
    """Step ``number``, from 0, of a moving average that always spans the last ``share`` of the steps.

    A fixed decay would long resemble the initial weights, or forget too soon: arXiv:2312.02696, section 3.1.
    """
    decay = number / (number + 1 / share)
    for average, now in zip(averages, weights, strict=True):
        average.lerp_(now, 1 - decay)


def _optimizer(network: nn.Module, lr: float, betas: tuple[float, float], device: torch.device) -> Optimizer:
    graphs = device.type == "cuda"  # which keep a number as it was, but read a tensor anew
    rate = torch.tensor(lr, device=device) if graphs else lr
    return Adam(network.parameters(), lr=rate, betas=betas, fused=True, capturable=graphs)


def _train_step(run: _Run, number: int, real: Tensor) -> Tensor:
    """The discriminator's steps on one batch, then one of the generator; ``number`` counts from 0.

    Returns ``[4]``: d_loss, mean D(real), mean D(fake), g_loss, on the device, not yet read.
    """
    real = real.view(-1, *run.arch.image_shape)
    d_steps = run.recipe.d_steps
    d_means = torch.stack([_d_step(run, number * d_steps + i, real) for i in range(d_steps)]).mean(dim=0)
    return torch.cat([d_means, _g_step(run, len(real)).view(1)])


def _d_step(run: _Run, number: int, real: Tensor) -> Tensor:
    recipe = run.recipe
    with torch.no_grad():  # G learns nothing here: no graph through it
        fake = run.fake(len(real))
    d_real, d_fake = run.judge(real, fake)
    loss = OBJECTIVES[recipe.objective].d_loss(d_real, d_fake)
    if recipe.penalty_weight and number % recipe.penalty_every == 0:
        penalty = PENALTIES[recipe.penalty](run.verdict, real, fake)
        loss = loss + recipe.penalty_weight * recipe.penalty_every * penalty
    run.d_optimizer.zero_grad()
    loss.backward()
    run.d_optimizer.step()
    return torch.stack([loss, d_real.mean(), d_fake.mean()]).detach()


def _g_step(run: _Run, count: int) -> Tensor:
    run.D.requires_grad_(False)  # D only judges: no gradients for its weights
    loss = OBJECTIVES[run.recipe.objective].g_loss(run.verdict(run.fake(count)))
    run.g_optimizer.zero_grad()
    loss.backward()
    run.g_optimizer.step()
    run.D.requires_grad_(True)
    return loss.detach()


def _settle(run: _Run, number: int) -> None:
    """What follows a step and depends on how many there were: the average, the learning rates."""
    if run.average is not None:
        _average(run.recipe.ema, number, run.average.parameters(), run.G.parameters())
    for schedule in run.schedules:
        schedule.step()


def _end_epoch(
    run: _Run,
    fixed: Tensor,
    before: Trained | None,
    epoch: int,
    means: Tensor,
    steps: int,
    began: float,
    epoch_began: float,
) -> Trained:
    """Read the epoch's means (its one synchronisation), draw its samples, copy its weights."""
    d_loss, d_real, d_fake, g_loss = means.tolist()
    now = time.perf_counter()
    speed = steps * run.recipe.batch / (now - epoch_began)
    record = Epoch(epoch, d_loss, g_loss, d_real, d_fake, speed, now - began)
    if not all(map(math.isfinite, (d_loss, g_loss))):
        raise TrainingError(f"the losses of epoch {epoch} are not finite ({d_loss}, {g_loss}); try another seed")
    G = run.published_generator
    if run.average is not None:  # the batch statistics of G belong to other weights
        update_bn((run.latents(_STATISTICS_BATCH) for _ in range(_STATISTICS_BATCHES)), G)
    G.eval()
    drawn = sampling.images(G, fixed)
    G.train()
    return Trained(
        generator=_on_cpu(G),
        discriminator=_on_cpu(run.D),
        samples=[*(before.samples if before else []), drawn],
        history=[*(before.history if before else []), record],
    )


def _on_cpu(network: nn.Module) -> Weights:
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which weights, dropout, shuffling and latents draw from."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
