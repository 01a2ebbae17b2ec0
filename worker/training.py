"""The training loop: two networks against each other, one epoch after the other.

Must not know who launched it: no Celery, no Redis, no environment, no files. Progress and the
wish to stop are callbacks.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

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
State = dict[str, Any]  # all that a run needs to go on: tensors and numbers, in lists and dicts
Measure = Callable[[nn.Module], Mapping[str, float]]  # a generator in eval mode → its metrics

SAMPLES = 64  # images of the same latents, drawn after every epoch
STATE_SECONDS = 60.0  # within an epoch, between two states that are handed out

_STATISTICS_BATCH, _STATISTICS_BATCHES = 250, 20  # fake images for the batch statistics of an average
_CALIBRATION = 1_024  # real images for the statistics of a discriminator that keeps them

# The share of the run that is left → the share of the learning rates that is used.
SCHEDULES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"constant": lambda left: 1.0, "linear": lambda left: left}
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
    g_eval_at: int | None  # the number of steps after which G goes to eval mode, if ever
    device: torch.device
    bfloat16: bool  # products in bfloat16; weights, losses and the optimisers' steps stay float32
    seed: int
    sums: Tensor  # of the epoch under way: d_loss, d_real, d_fake, g_loss
    order: Tensor  # of the images in it; empty between two epochs
    number: int = 0  # steps done
    history: list[Epoch] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)

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
    on_state: Callable[[State], None] | None = None,
    resume: State | None = None,
) -> Trained | None:
    """Train ``recipe`` on ``images`` (``[n, 28, 28]`` uint8) for ``recipe.epochs``.

    The same seed on the same CPU build with the same thread count gives the same weights, bit
    for bit, also when the run goes on from a state: ``on_state`` is given one after every epoch,
    after ``STATE_SECONDS`` within a long one, and when the run is stopped; it is to be written or
    copied before the call returns. ``on_progress`` is called after every step and every epoch,
    ``should_stop`` before every step, ``measure`` after every ``measure_every`` epochs. A state to
    go on from has to fit (:func:`fits`).

    Returns the state after the last epoch that this call finished; None when it was stopped
    before.

    Raises:
        TrainingError: there are fewer images than one batch, or the losses are no longer finite.
    """
    steps = len(images) // recipe.batch
    if steps == 0:
        raise TrainingError(f"{len(images)} images do not fill one batch of {recipe.batch}")
    with _seeded(seed, device):
        images = images.to(device)
        run = _start(recipe, images, seed, steps * recipe.epochs, device)
        fixed = sampling.latents(range(SAMPLES), run.arch.latent_shape, recipe.latents)
        clock = _Clock()
        if resume:
            _restore(run, clock, resume)
        train_step = _make_step(run)
        trained = _trained(run) if run.number == steps * recipe.epochs else None

        def hand_out() -> None:
            if on_state:
                on_state(_state(run, clock))
                clock.state_at = time.perf_counter()

        def measure_if_due() -> None:
            last = run.history[-1]
            if measure and measure_every and last.epoch % measure_every == 0 and not last.metrics:
                with clock.paused():
                    figures = measure(run.published_generator.eval())
                run.history[-1] = replace(last, metrics=figures)
                run.published_generator.train()

        if run.history and not len(run.order):  # the state was handed out before it was measured
            measure_if_due()
        for epoch in range(run.number // steps + 1, recipe.epochs + 1):
            if not len(run.order):
                run.order = torch.randperm(len(images), device=device)
                run.sums.zero_()
                clock.start_epoch()
            begun = run.number % steps
            rest = run.order[begun * recipe.batch :]
            for step, real in enumerate(mnist.batches(images, rest, recipe.batch), start=begun + 1):
                if should_stop():
                    hand_out()
                    return trained
                if time.perf_counter() - clock.state_at > STATE_SECONDS:
                    hand_out()
                run.sums += train_step(run.number, real)
                _settle(run)
                if run.number == run.g_eval_at:
                    _to_eval(run)
                    train_step = _make_step(run)
                on_progress(_progress(recipe, epoch, step, steps, clock, run.history))
            trained = _end_epoch(run, fixed, epoch, steps, clock)
            run.order = run.order[:0]
            hand_out()
            measure_if_due()
            on_progress(_progress(recipe, epoch, steps, steps, clock, run.history))
        return trained


class _Clock:
    """The seconds of training since the run and the epoch began, over all the processes that took part."""

    def __init__(self) -> None:
        self.state_at = time.perf_counter()
        self.began = self.epoch_began = time.perf_counter()

    def start_epoch(self) -> None:
        self.epoch_began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    @property
    def epoch_seconds(self) -> float:
        return time.perf_counter() - self.epoch_began

    def go_on(self, seconds: float, epoch_seconds: float) -> None:
        now = time.perf_counter()
        self.began, self.epoch_began = now - seconds, now - epoch_seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        seconds, epoch_seconds = self.seconds, self.epoch_seconds
        yield
        self.go_on(seconds, epoch_seconds)


def fits(state: State, recipe: Recipe, seed: int) -> bool:
    """Whether a run of ``recipe`` and ``seed`` can go on from a state: it may be of another release."""
    return state.get("recipe") == asdict(recipe) and state.get("seed") == seed


def in_bfloat16(arch: Arch, device: torch.device) -> bool:
    """Whether :func:`train` multiplies in bfloat16 there; its weights are float32 all the same."""
    return arch.bfloat16 and multiplies_bfloat16(device)


def _progress(recipe: Recipe, epoch: int, step: int, steps: int, clock: _Clock, history: list[Epoch]) -> Progress:
    done, seconds = (epoch - 1) * steps + step, clock.seconds
    return Progress(
        epoch=epoch,
        epochs=recipe.epochs,
        step=step,
        steps=steps,
        images_per_second=done * recipe.batch / seconds,
        eta_seconds=seconds / done * (recipe.epochs * steps - done),
        last=history[-1] if history else None,
    )


def _state(run: _Run, clock: _Clock) -> State:
    cuda = run.device.type == "cuda"
    return {
        "recipe": asdict(run.recipe),
        "seed": run.seed,
        "number": run.number,
        "order": run.order,
        "sums": run.sums,
        "seconds": clock.seconds,
        "epoch_seconds": clock.epoch_seconds,
        "history": [asdict(epoch) for epoch in run.history],
        "samples": run.samples,
        "stateful": [part.state_dict() for part in _stateful(run)],
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state(run.device) if cuda else None,
    }


def _restore(run: _Run, clock: _Clock, state: State) -> None:
    run.number = state["number"]
    run.order = state["order"].to(run.device)
    run.sums.copy_(state["sums"])
    run.history = [Epoch(**epoch) for epoch in state["history"]]
    run.samples = list(state["samples"])
    for part, saved in zip(_stateful(run), state["stateful"], strict=True):
        part.load_state_dict(saved)
    for optimizer in (run.g_optimizer, run.d_optimizer):
        for group in optimizer.param_groups:  # the run may have begun on another device
            group["lr"] = _rate(float(group["lr"]), run.device)
            group["capturable"] = run.device.type == "cuda"
    if run.g_eval_at is not None and run.number >= run.g_eval_at:
        run.G.eval()
    torch.set_rng_state(state["random"])
    if state["cuda_random"] is not None:
        torch.cuda.set_rng_state(state["cuda_random"], run.device)
    clock.go_on(state["seconds"], state["epoch_seconds"])


def _stateful(run: _Run) -> list[Any]:
    """The parts that keep their own state, in the order in which it is saved."""
    average = [run.average] if run.average is not None else []
    return [run.G, run.D, *average, run.g_optimizer, run.d_optimizer, *run.schedules]


def _start(recipe: Recipe, images: Tensor, seed: int, total_steps: int, device: torch.device) -> _Run:
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
        g_eval_at=round(recipe.g_eval * total_steps) if recipe.g_eval < 1 else None,
        device=device,
        bfloat16=in_bfloat16(arch, device),
        seed=seed,
        sums=torch.zeros(4, device=device),
        order=torch.arange(0),
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
    return Adam(network.parameters(), lr=_rate(lr, device), betas=betas, fused=True, capturable=device.type == "cuda")


def _rate(lr: float, device: torch.device) -> float | Tensor:
    """CUDA graphs keep a number as it was, but read a tensor anew."""
    return torch.tensor(lr, device=device) if device.type == "cuda" else lr


def _make_step(run: _Run) -> TrainStep:
    """The step as the networks are now: on a GPU it is to be made anew when one changes its mode."""
    step = partial(_train_step, run)
    return Recorded(step, phases=run.recipe.penalty_every) if run.device.type == "cuda" else step


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


def _settle(run: _Run) -> None:
    """What follows a step and depends on how many there were: the average, the learning rates."""
    if run.average is not None:
        _average(run.recipe.ema, run.number, run.average.parameters(), run.G.parameters())
    for schedule in run.schedules:
        schedule.step()
    run.number += 1


def _to_eval(run: _Run) -> None:
    """Have G's batch norms keep their statistics from here on: it learns as it will be used."""
    _take_statistics(run, run.G)
    run.G.eval()
    if run.average is not None:
        run.average.load_state_dict(run.G.state_dict() | dict(run.average.named_parameters()))


def _take_statistics(run: _Run, G: nn.Module) -> None:
    update_bn((run.latents(_STATISTICS_BATCH) for _ in range(_STATISTICS_BATCHES)), G)


def _end_epoch(run: _Run, fixed: Tensor, epoch: int, steps: int, clock: _Clock) -> Trained:
    """Read the epoch's means (its one synchronisation), draw its samples, copy its weights."""
    d_loss, d_real, d_fake, g_loss = (run.sums / steps).tolist()
    speed = steps * run.recipe.batch / clock.epoch_seconds
    run.history.append(Epoch(epoch, d_loss, g_loss, d_real, d_fake, speed, clock.seconds))
    if not all(map(math.isfinite, (d_loss, g_loss))):
        raise TrainingError(f"the losses of epoch {epoch} are not finite ({d_loss}, {g_loss}); try another seed")
    G = run.published_generator
    if run.average is not None and run.G.training:  # the batch statistics of G belong to other weights
        _take_statistics(run, G)
    G.eval()
    run.samples.append(sampling.images(G, fixed))
    G.train()
    return _trained(run)


def _trained(run: _Run) -> Trained:
    return Trained(_on_cpu(run.published_generator), _on_cpu(run.D), run.samples, run.history)


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
