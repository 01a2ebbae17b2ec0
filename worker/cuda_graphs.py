"""A training step as CUDA graphs: recorded once, from then on launched as one.

On a GPU the kernels of networks this small take less time than Python needs to ask for them. A
graph repeats the kernels alone: what a step does in Python besides is done while it is recorded, and
not again. So a step may decide by its number only through ``number % phases``, for each of which
there is a graph, and must leave to others whatever else changes from step to step.

Runs on CUDA only, and has not been run on a GPU yet.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

# The step's number from 0, real images [n, 28, 28] → figures, on the device.
TrainStep = Callable[[int, Tensor], Tensor]

_WARM_UP = 3  # steps of each phase that are taken before one is recorded: torch asks for some


class RecordedStep:
    """Does what ``step`` does, step by step in the order of their numbers, each batch of one shape.

    The figures that it returns are overwritten by a later call.
    """

    def __init__(self, step: TrainStep, phases: int) -> None:
        self.step = step
        self.phases = phases
        self.calls = 0
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.real: Tensor | None = None  # where the graphs read their batch
        self.side = torch.cuda.Stream()

    def __call__(self, number: int, real: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= _WARM_UP * self.phases:
            return self._run_aside(number, real)
        if self.real is None:
            self.real = torch.empty_like(real)
        self.real.copy_(real)
        phase = number % self.phases
        if phase not in self.graphs:
            self.graphs[phase] = self._record(phase, self.real)
        graph, figures = self.graphs[phase]
        graph.replay()
        return figures

    def _run_aside(self, number: int, real: Tensor) -> Tensor:
        """A step on a stream of its own, as a warm-up has to be."""
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable")  # it soon is captured
            figures = self.step(number, real)
        torch.cuda.current_stream().wait_stream(self.side)
        return figures

    def _record(self, phase: int, real: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            figures = self.step(phase, real)
        return graph, figures
