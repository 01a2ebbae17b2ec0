from dataclasses import asdict

import pytest

from models.archs import ARCHS
from models.sampling import LATENTS
from worker.objectives import OBJECTIVES, PENALTIES
from worker.recipes import RECIPES, NoRecipeError, Recipe, find_recipe
from worker.schedules import SCHEDULES

ADAM_DEFAULTS = (0.9, 0.999)


@pytest.mark.parametrize("name", ["book", "tuned"])
def test_the_reference_and_the_default_have_a_row_for_every_architecture(name: str) -> None:
    assert list(RECIPES[name]) == list(ARCHS)


def test_a_recipe_that_an_architecture_lacks_is_an_error_that_names_its_own() -> None:
    assert find_recipe("logistic", "wgan") is RECIPES["logistic"]["wgan"]
    with pytest.raises(NoRecipeError, match="dcgan has no recipe logistic; choose book or tuned"):
        find_recipe("logistic", "dcgan")


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
