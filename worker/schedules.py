"""What changes from step to step: the learning rates, the average of G, the mode of G's batch norms.

The step in ``worker.step`` knows nothing of this, so that a GPU can record it once and replay it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import update_bn

from worker.step import Networks

# The share of the run that is left → the factor of the learning rates.
SCHEDULES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"constant": lambda left: 1.0, "linear": lambda left: left}
)

_STATISTICS_BATCH, _STATISTICS_BATCHES = 250, 20  # of fake images, for batch statistics


class Schedules:
    """Learning rates, average and mode of one run's networks, as its recipe says."""

    def __init__(self, networks: Networks, total_steps: int) -> None:
        recipe = networks.recipe
        self._networks = networks
        self._g_eval_at = round(recipe.g_eval * total_steps) if recipe.g_eval < 1 else None  # steps; None: never
        self.average: nn.Module | None = deepcopy(networks.G) if recipe.ema else None
        self.rates = [
            LambdaLR(optimizer, lambda step: SCHEDULES[recipe.schedule](1 - step / total_steps))
            for optimizer in (networks.g_optimizer, networks.d_optimizer)
        ]

    @property
    def published_generator(self) -> nn.Module:
        """The average if the recipe keeps one, else G itself."""
        return self._networks.G if self.average is None else self.average

    def advance(self, number: int) -> bool:
        """Update all after step ``number``, from 0. True if G has changed its mode: the step must be made again."""
        networks = self._networks
        if self.average is not None:
            _average(networks.recipe.ema, number, self.average.parameters(), networks.G.parameters())
        for rate in self.rates:
            rate.step()
        if number + 1 != self._g_eval_at:
            return False
        self._fix_statistics()
        return True

    def set_mode(self, number: int) -> None:
        """Put G into the mode that it has after ``number`` steps."""
        if self._g_eval_at is not None and number >= self._g_eval_at:
            self._networks.G.eval()

    def refresh_statistics(self) -> None:
        """Give the average its own batch statistics: those of G belong to other weights."""
        if self.average is not None and self._networks.G.training:
            self._take_statistics(self.average)

    @contextmanager
    def use_generator(self) -> Iterator[nn.Module]:
        """The published generator, in eval mode inside the ``with`` block."""
        G = self.published_generator
        training = G.training
        yield G.eval()
        G.train(training)

    def _fix_statistics(self) -> None:
        """Freeze the statistics of G's batch norms, so that G is trained as it will be used."""
        G = self._networks.G
        self._take_statistics(G)
        G.eval()
        if self.average is not None:
            self.average.load_state_dict(G.state_dict() | dict(self.average.named_parameters()))

    def _take_statistics(self, G: nn.Module) -> None:
        update_bn((self._networks.make_latents(_STATISTICS_BATCH) for _ in range(_STATISTICS_BATCHES)), G)


@torch.no_grad()
def _average(share: float, number: int, averages: Iterable[Tensor], weights: Iterable[Tensor]) -> None:
    """Step ``number``, from 0, of a moving average that always spans the last ``share`` of the steps.

    With a fixed decay, the average would keep the initial weights too long, or span too few steps:
    arXiv:2312.02696, section 3.1.
    """
    decay = number / (number + 1 / share)
    for average, now in zip(averages, weights, strict=True):
        average.lerp_(now, 1 - decay)
