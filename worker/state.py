"""How far a run is, and everything that it needs to resume there, bit for bit.

A saved state is one dictionary of tensors and numbers, so that ``torch.load(weights_only=True)`` can
read it. The caller decides where to keep it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.recipes import DOutput, Recipe
from worker.schedules import Schedules
from worker.step import Networks, make_rate

State = dict[str, Any]

_ADDED = {"d_fresh": False}  # columns of recipes that earlier releases lack, with what those do


@dataclass(frozen=True)
class Epoch:
    """The record of one epoch; means are over its batches."""

    epoch: int  # from 1
    d_loss: float
    g_loss: float
    d_real: float  # of real images; d_output says what it is
    d_fake: float  # of generated images
    images_per_second: float
    seconds: float  # of training since the run began, without measuring
    metrics: Mapping[str, float] = field(default_factory=dict)  # empty if not measured
    d_output: str = DOutput.RAW  # what d_real and d_fake are means of

    @property
    def wasserstein(self) -> float | None:
        """A critic's estimate of the earth mover's distance, for images in −1…1; None if D is no such critic."""
        return self.d_real - self.d_fake if self.d_output == DOutput.SCORE else None

    def describe(self) -> dict[str, Any]:
        """What histories and events tell of the epoch."""
        return asdict(self) | ({} if self.wasserstein is None else {"wasserstein": self.wasserstein})


class Clock:
    """The seconds of training since the run and the epoch began, summed over all processes of the run."""

    def __init__(self) -> None:
        self._began = self._epoch_began = time.perf_counter()

    def start_epoch(self) -> None:
        self._epoch_began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def epoch_seconds(self) -> float:
        return time.perf_counter() - self._epoch_began

    def go_on(self, seconds: float, epoch_seconds: float) -> None:
        now = time.perf_counter()
        self._began, self._epoch_began = now - seconds, now - epoch_seconds

    @contextmanager
    def pause(self) -> Iterator[None]:
        seconds, epoch_seconds = self.seconds, self.epoch_seconds
        yield
        self.go_on(seconds, epoch_seconds)


@dataclass
class Position:
    """How far a run is."""

    sums: Tensor  # [4] of the current epoch: d_loss, d_real, d_fake, g_loss
    number: int = 0  # steps done
    order: Tensor | None = None  # of the images in the current epoch; None between two epochs
    history: list[Epoch] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)  # one per epoch: [64, 28, 28] uint8
    clock: Clock = field(default_factory=Clock)


def take_state(seed: int, networks: Networks, schedules: Schedules, position: Position) -> State:
    """Everything that a run needs to resume. It shares tensors with the run: write or copy it before the next step."""
    cuda = networks.device.type == "cuda"
    return {
        # Without new columns that change nothing: an earlier release compares the whole recipe.
        "recipe": {k: v for k, v in asdict(networks.recipe).items() if k not in _ADDED or v != _ADDED[k]},
        "seed": seed,
        "threads": torch.get_num_threads(),
        "number": position.number,
        "order": torch.arange(0) if position.order is None else position.order,  # as earlier releases have it
        "sums": position.sums,
        "seconds": position.clock.seconds,
        "epoch_seconds": position.clock.epoch_seconds,
        # d_output apart: an earlier release knows no such field of an epoch.
        "history": [{k: v for k, v in asdict(epoch).items() if k != "d_output"} for epoch in position.history],
        "d_outputs": [str(epoch.d_output) for epoch in position.history],
        "samples": position.samples,
        "stateful": [part.state_dict() for part in _list_stateful(networks, schedules)],
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state(networks.device) if cuda else None,
    }


def fits(state: State, recipe: Recipe, seed: int, dataset_sha256: str) -> bool:
    """Whether a run of ``recipe`` and ``seed`` on a data set can resume from a state, perhaps of another release."""
    found = (_ADDED | state.get("recipe", {}), state.get("seed"), state.get("dataset_sha256", dataset_sha256))
    return found == (asdict(recipe), seed, dataset_sha256)


def read_history(state: State) -> list[Epoch]:
    """The records of the finished epochs."""
    outputs = state.get("d_outputs", [DOutput.RAW.value] * len(state["history"]))  # earlier releases lack them
    return [Epoch(**epoch, d_output=output) for epoch, output in zip(state["history"], outputs, strict=True)]


def restore_state(state: State, networks: Networks, schedules: Schedules, position: Position) -> None:
    """Put a run back where it was when the state was taken. The state must fit (:func:`fits`)."""
    device = networks.device
    position.number = state["number"]
    position.order = state["order"].to(device) if len(state["order"]) else None
    position.sums.copy_(state["sums"])
    position.history = read_history(state)
    position.samples = list(state["samples"])
    for part, saved in zip(_list_stateful(networks, schedules), state["stateful"], strict=True):
        part.load_state_dict(saved)
    for optimizer in (networks.g_optimizer, networks.d_optimizer):
        for group in optimizer.param_groups:  # the run may have begun on another device
            group["lr"] = make_rate(float(group["lr"]), device)
            group["capturable"] = device.type == "cuda"
    schedules.set_mode(position.number)
    torch.set_rng_state(state["random"])
    if state["cuda_random"] is not None:
        torch.cuda.set_rng_state(state["cuda_random"], device)
    position.clock.go_on(state["seconds"], state["epoch_seconds"])


def _list_stateful(networks: Networks, schedules: Schedules) -> list[Any]:
    """The parts that keep their own state, in the order in which it is saved."""
    average = [] if schedules.average is None else [schedules.average]
    return [networks.G, networks.D, *average, networks.g_optimizer, networks.d_optimizer, *schedules.rates]
