"""A training step as CUDA graphs: recorded once, then replayed with one launch.

On a GPU, the kernels of networks this small run faster than Python can launch them. A graph replays
only the kernels: the Python code of a step runs while the step is recorded, and not again. So a step
may depend on its number only through ``number % phases``, and each phase has its own graph.
Everything else that changes from step to step must be outside the step.

Runs on CUDA only, and has not been run on a GPU yet.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

# The step's number from 0, real images [n, 28, 28] → figures, on the device.
TrainStep = Callable[[int, Tensor], Tensor]

_WARM_UP = 3  # steps per phase before the first recording; torch requires a warm-up


class RecordedStep:
    """Does what ``step`` does. Steps must come in the order of their numbers; all batches have one shape.

    Later calls overwrite the figures that it returns.
    """

    def __init__(self, step: TrainStep, phases: int) -> None:
        self._step = step
        self._phases = phases
        self._calls = 0
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._real: Tensor | None = None  # the graphs read their batch here
        self._side = torch.cuda.Stream()

    def __call__(self, number: int, real: Tensor) -> Tensor:
        self._calls += 1
        if self._calls <= _WARM_UP * self._phases:
            return self._run_aside(number, real)
        if self._real is None:
            self._real = torch.empty_like(real)
        self._real.copy_(real)
        phase = number % self._phases
        if phase not in self._graphs:
            self._graphs[phase] = self._record(phase, self._real)
        graph, figures = self._graphs[phase]
        graph.replay()
        return figures

    def _run_aside(self, number: int, real: Tensor) -> Tensor:
        """Run a step on a separate stream, as torch requires for a warm-up."""
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable")  # it is captured soon
            figures = self._step(number, real)
        torch.cuda.current_stream().wait_stream(self._side)
        return figures

    def _record(self, phase: int, real: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            figures = self._step(phase, real)
        return graph, figures
