"""The recipes: recipe × architecture → every hyperparameter of a run, in one aligned table.

``book`` is the reference, as in chapter 17 of Raschka, Liu and Mirjalili (2022): Adam with
torch's default betas, uniform latents, 100 epochs, a critic that ends in a Sigmoid. ``tuned``
gives recognisable digits in minutes: latents from a mixture, an averaged generator, a falling learning rate, R₁,
and the unbounded critic of arXiv:1704.00028. Must not import torch: the API and the queue read this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


@dataclass(frozen=True)
class Recipe:
    """All hyperparameters of a training run. A version's manifest holds all of them."""

    name: str
    arch: str
    objective: str  # a row of worker.objectives.OBJECTIVES
    lr_g: float
    lr_d: float
    betas: tuple[float, float]
    schedule: str  # of both learning rates: a row of worker.schedules.SCHEDULES
    latents: str  # a row of models.sampling.LATENTS
    sigmoid: bool  # does the discriminator end in one?
    d_steps: int  # discriminator steps on each batch, before the one generator step
    d_eval: bool  # D stays in eval mode: no dropout, batch norms keep their statistics of real images
    g_eval: float  # after this share of the steps, G's batch norms keep their statistics; 1: never
    penalty: str  # a row of worker.objectives.PENALTIES
    penalty_weight: float  # 0: none
    penalty_every: int  # discriminator steps per penalty; each penalty is multiplied by this number
    ema: float  # the published G is the average over this last share of the steps; 0: no average
    batch: int
    epochs: int  # unless the run sets another number


_BOOK = (0.9, 0.999)

# fmt: off
_ROWS = (
    #      name     arch       objective      lr_g  lr_d  betas        schedule    latents   sigmoid d_steps d_eval g_eval penalty weight every ema  batch epochs
    Recipe("book",  "vanilla", "bce",         1e-3, 1e-3, _BOOK,       "constant", "uniform", True,  1,      False, 1.0,   "gp",   0.0,  1, 0.0,  64, 100),
    Recipe("book",  "dcgan",   "bce",         3e-4, 2e-4, _BOOK,       "constant", "uniform", True,  1,      False, 1.0,   "gp",   0.0,  1, 0.0,  64, 100),
    Recipe("book",  "wgan",    "wasserstein", 2e-4, 2e-4, _BOOK,       "constant", "uniform", True,  5,      False, 1.0,   "gp",   10.0, 1, 0.0,  64, 100),
    Recipe("tuned", "vanilla", "logistic",    2e-3, 2e-3, (0.0, 0.99), "linear",   "mixture", False, 1,      True,  1.0,   "r1",   0.5,  4, 0.5,  16, 100),
    Recipe("tuned", "dcgan",   "logistic",    1e-3, 1e-3, (0.5, 0.99), "linear",   "mixture", False, 1,      True,  0.35,  "r1",   0.5,  4, 0.1,  32, 60),
    Recipe("tuned", "wgan",    "logistic",    1e-3, 2e-3, (0.0, 0.99), "linear",   "mixture", False, 1,      False, 1.0,   "r1",   2.0,  4, 0.1,  32, 40),
)
# fmt: on

RECIPES: Mapping[str, Mapping[str, Recipe]] = MappingProxyType(
    {name: {row.arch: row for row in _ROWS if row.name == name} for name in dict.fromkeys(r.name for r in _ROWS)}
)

DEFAULT_RECIPE = "tuned"

# The names that the API and the command line accept.
ArchName = StrEnum("ArchName", list(RECIPES[DEFAULT_RECIPE]))  # type: ignore[misc]
RecipeName = StrEnum("RecipeName", list(RECIPES))  # type: ignore[misc]


class DOutput(StrEnum):
    """What d_real and d_fake are means of."""

    PROBABILITY = "probability"  # that D takes an image for a real one, 0…1
    SCORE = "score"  # of a Wasserstein critic: only differences mean something
    RAW = "raw"  # what D gives, in records of earlier releases
