"""The training loop: two networks against each other, epoch by epoch.

Must not know who launched it: no Celery, no Redis, no environment, no files. It reports progress and
asks whether to stop through callbacks.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models import mnist, sampling
from worker.objectives import OBJECTIVES
from worker.recipes import Recipe
from worker.schedules import Schedules
from worker.state import Epoch, Position, State, restore_state, take_state
from worker.step import make_networks, make_step
from worker.threads import use

Weights = dict[str, Tensor]
Measure = Callable[[nn.Module], Mapping[str, float]]  # a generator in eval mode → its metrics

SAMPLES = 64  # images of the same latents, drawn after every epoch
STATE_SECONDS = 60.0  # between two states that are handed out within an epoch


class TrainingError(Exception):
    """The run cannot produce a usable generator; the message says why and what to do."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    epoch: int  # the current one, from 1
    epochs: int
    step: int  # within the epoch, from 1
    steps: int  # per epoch
    images_per_second: float  # since the run began
    eta_seconds: float
    last: Epoch | None  # the last finished epoch


@dataclass
class Trained:
    """The result of a run, as of its last finished epoch."""

    generator: Weights  # on the CPU; the average if the recipe keeps one
    discriminator: Weights
    samples: list[Tensor]  # one per epoch: [64, 28, 28] uint8
    history: list[Epoch]


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
    on_state: Callable[[State], None] = lambda state: None,
    resume: State | None = None,
    threads: int | None = None,
) -> Trained | None:
    """Train ``recipe`` on ``images`` (``[n, 28, 28]`` uint8) for ``recipe.epochs`` epochs.

    The same seed, CPU build and thread count give the same weights, bit for bit, even if the run was
    interrupted and resumed.

    ``on_progress`` is called after every step and every epoch, ``should_stop`` before every step, and
    ``measure`` after every ``measure_every`` epochs. ``on_state`` gets a state after every epoch, every
    ``STATE_SECONDS`` within an epoch, and when the run is stopped. It must write or copy the state
    before it returns. ``resume`` is such a state; it must fit (:func:`worker.state.fits`). ``threads`` is how
    many torch uses on the CPU; None: as many as it does anyway.

    Returns the result after the last epoch that this call finished, or the one that ``resume`` had just
    finished; None if there is none.

    Raises:
        TrainingError: there are fewer images than one step takes, or the losses are no longer finite.
    """
    if len(images) < recipe.images_per_step:
        raise TrainingError(f"{len(images)} images are too few for a step, which takes {recipe.images_per_step}")
    with _seed_torch(seed, device), use(threads):
        run = _Run(recipe, images.to(device), seed, device)
        if resume:
            run.resume(resume)
        is_between_epochs = run.position.order is None and run.position.history
        trained = run.copy() if is_between_epochs else None
        if run.position.order is None:  # a state is handed out before the metrics of its epoch are taken
            run.measure_if_due(measure, measure_every)
        for epoch in range(run.position.number // run.steps + 1, recipe.epochs + 1):
            for real in run.iterate_epoch():
                if should_stop():
                    run.hand_out(on_state)
                    return trained
                if time.perf_counter() - run.state_at > STATE_SECONDS:
                    run.hand_out(on_state)
                run.take_step(real)
                on_progress(run.describe(epoch))
            trained = run.end_epoch(epoch)
            run.hand_out(on_state)
            run.measure_if_due(measure, measure_every)
            on_progress(run.describe(epoch))
        return trained


class _Run:
    """One call of :func:`train`: the networks, their schedules, and how far the run is."""

    def __init__(self, recipe: Recipe, images: Tensor, seed: int, device: torch.device) -> None:
        self.recipe, self.images, self.seed = recipe, images, seed
        self.steps = len(images) // recipe.images_per_step  # per epoch
        self.networks = make_networks(recipe, images, device)
        self.schedules = Schedules(self.networks, self.steps * recipe.epochs)
        self.position = Position(sums=torch.zeros(4, device=device))
        self.fixed = sampling.make_latents(range(SAMPLES), self.networks.arch.latent_shape, recipe.latents)
        self.step = make_step(self.networks)
        self.state_at = time.perf_counter()  # when a state was last handed out

    def resume(self, state: State) -> None:
        restore_state(state, self.networks, self.schedules, self.position)
        self.step = make_step(self.networks)

    def hand_out(self, on_state: Callable[[State], None]) -> None:
        on_state(take_state(self.seed, self.networks, self.schedules, self.position))
        self.state_at = time.perf_counter()

    def iterate_epoch(self) -> Iterator[Tensor]:
        """The real images of each remaining step of the epoch, or of a new one: ``[images_per_step, 28, 28]``, −1…1."""
        position, batch = self.position, self.recipe.images_per_step
        if position.order is None:
            position.order = torch.randperm(len(self.images), device=self.networks.device)
            position.sums.zero_()
            position.clock.start_epoch()
        begun = position.number % self.steps
        return mnist.iterate_batches(self.images, position.order[begun * batch :], batch)

    def take_step(self, real: Tensor) -> None:
        position = self.position
        position.sums += self.step(position.number, real)
        if self.schedules.advance(position.number):
            self.step = make_step(self.networks)
        position.number += 1

    def end_epoch(self, epoch: int) -> Trained:
        """Read the epoch's means (the only wait for the device), draw its samples, copy its weights."""
        position, clock = self.position, self.position.clock
        d_loss, d_real, d_fake, g_loss = (position.sums / self.steps).tolist()
        speed = self.steps * self.recipe.images_per_step / clock.epoch_seconds
        output = OBJECTIVES[self.recipe.objective].d_output.value
        position.history.append(Epoch(epoch, d_loss, g_loss, d_real, d_fake, speed, clock.seconds, d_output=output))
        if not all(map(math.isfinite, (d_loss, g_loss))):
            raise TrainingError(f"the losses of epoch {epoch} are not finite ({d_loss}, {g_loss}); try another seed")
        self.schedules.refresh_statistics()
        with self.schedules.use_generator() as G:
            position.samples.append(sampling.draw(G, self.fixed))
        position.order = None
        return self.copy()

    def measure_if_due(self, measure: Measure | None, every: int | None) -> None:
        """Measure the last finished epoch if ``every`` divides its number and it has no metrics yet."""
        if not (measure and every and self.position.history):
            return
        last = self.position.history[-1]
        if last.epoch % every == 0 and not last.metrics:
            with self.position.clock.pause(), self.schedules.use_generator() as G:
                self.position.history[-1] = replace(last, metrics=measure(G))

    def describe(self, epoch: int) -> Progress:
        done, seconds = self.position.number, self.position.clock.seconds
        return Progress(
            epoch=epoch,
            epochs=self.recipe.epochs,
            step=done - (epoch - 1) * self.steps,
            steps=self.steps,
            images_per_second=done * self.recipe.images_per_step / seconds,
            eta_seconds=seconds / done * (self.recipe.epochs * self.steps - done),
            last=self.position.history[-1] if self.position.history else None,
        )

    def copy(self) -> Trained:
        generator, discriminator = self.schedules.published_generator, self.networks.D
        position = self.position
        return Trained(_copy_weights(generator), _copy_weights(discriminator), position.samples, position.history)


def _copy_weights(network: nn.Module) -> Weights:
    """A copy of the weights, on the CPU."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


@contextmanager
def _seed_torch(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators. Weights, dropout, shuffling and latents all draw from them."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
