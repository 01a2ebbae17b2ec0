"""Fast drawing: latents → generator → grey levels, in passes of a few fixed sizes.

On the CPU a pass is a few matrix products, on CUDA a recorded graph. docs/measurements.md shows what
this gains, docs/trials.md what else was tried.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import sampling
from models.products import Products, UnknownLayerError

logger = logging.getLogger(__name__)

Draw = Callable[[Tensor], Tensor]  # latents [n, …] → grey levels [n, 28, 28] on the CPU, not rounded yet

BATCH = 32  # images per pass; larger passes are not faster
SHAPES = (1, 2, 4, 8, 16, BATCH)  # of a pass; a few images need not pay for a full pass


class Inference:
    """A generator in eval mode, ready to draw. Safe in several threads.

    An image does not depend on the other images of its pass, or on their number. This is checked on
    each machine when the generator is loaded: a shape that gives any other grey level is not used.
    """

    def __init__(self, G: nn.Sequential, latent_shape: tuple[int, ...], device: torch.device) -> None:
        self.device = device.type
        self._draw = _choose_fastest(G, latent_shape, device)
        z = torch.randn(BATCH, *latent_shape, generator=torch.Generator().manual_seed(0))
        expected = self._draw(z)
        self._shapes = [shape for shape in SHAPES if shape == BATCH or _agrees(self._draw, z, shape, expected)]

    def __call__(self, z: Tensor) -> Tensor:
        """Latents ``[n, …]`` → images ``[n, 28, 28]`` uint8 on the CPU; ``n`` up to :data:`BATCH`."""
        shape = next(shape for shape in self._shapes if shape >= len(z))
        padded = functional.pad(z, (*[0, 0] * (z.ndim - 1), 0, shape - len(z)))
        return sampling.round_levels(self._draw(padded)[: len(z)])


def _agrees(draw: Draw, z: Tensor, shape: int, expected: Tensor) -> bool:
    """Whether passes of ``shape`` give the ``expected`` levels bit for bit, with each image in another place."""
    if torch.cat([draw(chunk) for chunk in z.flip(0).split(shape)]).flip(0).equal(expected):
        return True
    logger.debug("passes of %d images draw otherwise than those of %d on this machine: not used", shape, BATCH)
    return False


def _choose_fastest(G: nn.Sequential, latent_shape: tuple[int, ...], device: torch.device) -> Draw:
    """The way to draw that was measured as the fastest on the device."""
    if device.type == "cuda":
        return _CudaGraphs(G.to(device), latent_shape)
    try:
        return Products(G)
    except UnknownLayerError as error:
        logger.warning("drawing at half the speed: %s", error)
        return partial(_draw_plainly, G)


@torch.inference_mode()
def _draw_plainly(G: nn.Sequential, z: Tensor) -> Tensor:
    return sampling.to_levels(G(z).view(len(z), 28, 28))


class _CudaGraphs:
    """The network as CUDA graphs, one per shape. Has not been run on a GPU yet."""

    @torch.inference_mode()
    def __init__(self, G: nn.Sequential, latent_shape: tuple[int, ...]) -> None:
        device = next(G.parameters()).device
        self._lock = threading.Lock()  # a graph has only one place for its latents
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        for shape in SHAPES:
            z = torch.zeros(shape, *latent_shape, device=device)
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                _draw_plainly(G, z)  # the first pass allocates memory
            torch.cuda.current_stream(device).wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                levels = _draw_plainly(G, z)
            self._graphs[shape] = graph, z, levels

    @torch.inference_mode()
    def __call__(self, z: Tensor) -> Tensor:
        graph, latents, levels = self._graphs[len(z)]
        with self._lock:
            latents.copy_(z)
            graph.replay()
            return levels.cpu()
