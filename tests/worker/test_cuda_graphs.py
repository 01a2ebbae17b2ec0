import dataclasses
from typing import Any

import pytest
import torch

from models import mnist
from worker import step, training
from worker.cuda_graphs import RecordedStep
from worker.recipes import RECIPES
from worker.settings import Settings
from worker.state import State

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable")  # the plain run's
@pytest.mark.parametrize(("name", "arch"), [(name, arch) for name, rows in RECIPES.items() for arch in rows])
def test_a_recorded_step_does_what_the_step_does(name: str, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes what changes from step to step: learning rates, latents, whether a penalty is due."""
    recipe = dataclasses.replace(RECIPES[name][arch], epochs=2, batch=16)
    images = mnist.load(Settings().data_dir)[: recipe.images_per_step * 12]
    phases: set[int] = set()
    record = RecordedStep._record

    def note(self: RecordedStep, phase: int, real: torch.Tensor) -> Any:
        phases.add(phase)
        return record(self, phase, real)

    monkeypatch.setattr(RecordedStep, "_record", note)
    device = torch.device("cuda")
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
        recorded = training.train(recipe=recipe, images=images, seed=0, device=device)
        assert phases
        monkeypatch.setattr(step, "RecordedStep", lambda plain_step, phases: plain_step)
        plain = training.train(recipe=recipe, images=images, seed=0, device=device)
    assert recorded is not None
    assert plain is not None
    states: list[State] = []
    training.train(recipe=recipe, images=images, seed=0, device=torch.device("cpu"), on_state=states.append)
    monkeypatch.undo()
    assert training.train(recipe=recipe, images=images, seed=0, device=device, resume=states[0]) is not None
    for ours, expected in (
        (recorded.generator, plain.generator),
        (recorded.discriminator, plain.discriminator),
    ):
        for key, weights in expected.items():
            torch.testing.assert_close(ours[key], weights, rtol=1e-4, atol=1e-5)
