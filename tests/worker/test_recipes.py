from dataclasses import asdict

import pytest

from models.archs import ARCHS
from models.sampling import LATENTS
from worker.objectives import OBJECTIVES, PENALTIES
from worker.recipes import RECIPES, Recipe
from worker.schedules import SCHEDULES

ADAM_DEFAULTS = (0.9, 0.999)


def test_every_recipe_has_a_row_for_every_architecture() -> None:
    for name, rows in RECIPES.items():
        assert list(rows) == list(ARCHS), name


@pytest.mark.parametrize("recipe", [row for rows in RECIPES.values() for row in rows.values()], ids=str)
def test_rows_name_what_exists(recipe: Recipe) -> None:
    assert recipe.objective in OBJECTIVES
    assert recipe.penalty in PENALTIES
    assert recipe.latents in LATENTS
    assert recipe.schedule in SCHEDULES


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("vanilla", {"lr_g": 1e-3, "lr_d": 1e-3, "objective": "bce", "d_steps": 1, "penalty_weight": 0}),
        ("dcgan", {"lr_g": 3e-4, "lr_d": 2e-4, "objective": "bce", "d_steps": 1, "penalty_weight": 0}),
        (
            "wgan",
            {
                "lr_g": 2e-4,
                "lr_d": 2e-4,
                "objective": "wasserstein",
                "d_steps": 5,
                "penalty": "gp",
                "penalty_weight": 10,
            },
        ),
    ],
)
def test_the_book_recipe(arch: str, expected: dict[str, object]) -> None:
    common = {"batch": 64, "epochs": 100, "latents": "uniform", "betas": ADAM_DEFAULTS, "schedule": "constant"}
    common |= {"ema": 0, "sigmoid": True, "penalty_every": 1, "d_eval": False}
    row = asdict(RECIPES["book"][arch])
    assert {name: row[name] for name in (expected | common)} == expected | common
