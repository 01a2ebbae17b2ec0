import dataclasses

import pytest
import torch

from models import mnist
from worker import training
from worker.recipes import RECIPES
from worker.settings import Settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("arch", RECIPES["tuned"])
def test_a_recorded_step_does_what_the_step_does(name: str, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what changes from step to step: learning rates, latents, when a penalty is due."""
    images = mnist.load(Settings().data_dir)[: 16 * 40]
    recipe = dataclasses.replace(RECIPES[name][arch], epochs=2, batch=16)
    device = torch.device("cuda")
    recorded = training.train(recipe=recipe, images=images, seed=0, device=device)
    monkeypatch.setattr(training, "Recorded", lambda step, phases: step)
    plain = training.train(recipe=recipe, images=images, seed=0, device=device)
    assert recorded is not None
    assert plain is not None
    assert [epoch.d_loss for epoch in recorded.history] == pytest.approx(
        [epoch.d_loss for epoch in plain.history], rel=0.02
    )
    for key, weights in plain.generator.items():
        torch.testing.assert_close(recorded.generator[key], weights, rtol=0.05, atol=0.01)
