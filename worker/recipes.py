"""The recipes: recipe × architecture → every hyperparameter of a run, in one aligned table.

``book`` is the reference, as in chapter 17 of Raschka, Liu and Mirjalili (2022): Adam with
torch's default betas, uniform latents, 100 epochs, a critic that ends in a Sigmoid. ``tuned``
gives good digits sooner: latents from a mixture, an averaged generator, a falling learning rate, a
penalty that is taken at every fourth step of D. Its wgan is that of arXiv:1704.00028: the Wasserstein loss, an
unbounded critic, four steps of it for each of G. ``logistic`` trains the same two networks with the loss of
``tuned``'s other rows, for comparison. Must not import torch: the API and the queue read this table.
"""

from collections.abc import Mapping, Sequence
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
    d_steps: int  # discriminator steps before each generator step
    d_fresh: bool  # each of them has real images of its own, else all of them have the same ones
    d_eval: bool  # D stays in eval mode: no dropout, batch norms keep their statistics of real images
    g_eval: float  # after this share of the steps, G's batch norms keep their statistics; 1: never
    penalty: str  # a row of worker.objectives.PENALTIES
    penalty_weight: float  # 0: none
    penalty_every: int  # discriminator steps per penalty; each penalty is multiplied by this number
    ema: float  # the published G is the average over this last share of the steps; 0: no average
    batch: int
    epochs: int  # unless the run sets another number

    @property
    def images_per_step(self) -> int:
        """Real images that D sees before a step of G."""
        return self.batch * (self.d_steps if self.d_fresh else 1)


class NoRecipeError(Exception):
    """This architecture has no such recipe; choose one of ``possible``."""

    def __init__(self, name: str, arch: str, possible: Sequence[str]) -> None:
        self.possible = " or ".join(possible)
        super().__init__(f"{arch} has no recipe {name}; choose {self.possible}")


_BOOK = (0.9, 0.999)

# fmt: off
_ROWS = (
    #      name        arch       objective      lr_g  lr_d  betas        schedule    latents   sigmoid d_steps d_fresh d_eval g_eval penalty weight every ema  batch epochs
    Recipe("book",     "vanilla", "bce",         1e-3, 1e-3, _BOOK,       "constant", "uniform", True,  1,      False,  False, 1.0,   "gp",   0.0,   1,    0.0, 64,   100),
    Recipe("book",     "dcgan",   "bce",         3e-4, 2e-4, _BOOK,       "constant", "uniform", True,  1,      False,  False, 1.0,   "gp",   0.0,   1,    0.0, 64,   100),
    Recipe("book",     "wgan",    "wasserstein", 2e-4, 2e-4, _BOOK,       "constant", "uniform", True,  5,      False,  False, 1.0,   "gp",   10.0,  1,    0.0, 64,   100),
    Recipe("tuned",    "vanilla", "logistic",    2e-3, 2e-3, (0.0, 0.99), "linear",   "mixture", False, 1,      False,  True,  1.0,   "r1",   0.5,   4,    0.5, 16,   100),
    Recipe("tuned",    "dcgan",   "logistic",    1e-3, 1e-3, (0.5, 0.99), "linear",   "mixture", False, 1,      False,  True,  0.35,  "r1",   0.5,   4,    0.1, 32,   60),
    Recipe("tuned",    "wgan",    "wasserstein", 1e-3, 1e-3, (0.0, 0.99), "linear",   "mixture", False, 4,      True,   False, 1.0,   "gp",   10.0,  4,    0.1, 32,   150),
    Recipe("logistic", "wgan",    "logistic",    1e-3, 2e-3, (0.0, 0.99), "linear",   "mixture", False, 1,      False,  False, 1.0,   "r1",   2.0,   4,    0.1, 32,   40),
)
# fmt: on

RECIPES: Mapping[str, Mapping[str, Recipe]] = MappingProxyType(
    {name: {row.arch: row for row in _ROWS if row.name == name} for name in dict.fromkeys(r.name for r in _ROWS)}
)

DEFAULT_RECIPE = "tuned"

# The names that the API and the command line accept.
ArchName = StrEnum("ArchName", list(RECIPES[DEFAULT_RECIPE]))  # type: ignore[misc]
RecipeName = StrEnum("RecipeName", list(RECIPES))  # type: ignore[misc]


def find_recipe(name: str, arch: str) -> Recipe:
    """The row of a recipe for an architecture.

    Raises:
        NoRecipeError: there is none.
    """
    rows = RECIPES.get(name, {})
    if arch not in rows:
        raise NoRecipeError(name, arch, [other for other, its_rows in RECIPES.items() if arch in its_rows])
    return rows[arch]


class DOutput(StrEnum):
    """What d_real and d_fake are means of."""

    PROBABILITY = "probability"  # that D takes an image for a real one, 0…1
    SCORE = "score"  # of a Wasserstein critic: only differences mean something
    RAW = "raw"  # what D gives, in records of earlier releases
