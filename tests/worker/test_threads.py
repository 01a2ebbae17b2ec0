"""How many threads a training uses: free cores count, and what was chosen is kept."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from models import mnist
from worker import threads
from worker.linux import count_cores
from worker.recipes import RECIPES, Recipe
from worker.settings import Settings
from worker.state import State
from worker.trainer import Trainer

RECIPE = RECIPES["book"]["vanilla"]


@pytest.fixture
def busy() -> Iterator[None]:
    """A process of normal priority for every core."""
    with ExitStack() as stack:
        for _ in range(count_cores()):
            other = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(other.kill)
        yield


def test_a_core_that_another_process_keeps_busy_does_not_count(busy: None) -> None:
    assert threads.count_free_cores(2) == 1


def test_no_more_threads_are_tried_than_cores_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)

    def measure(recipe: Recipe, images: torch.Tensor, number: int) -> float:
        tried.append(number)
        return 1.0

    monkeypatch.setattr(threads, "_measure_speed", measure)
    for free, expected in ((1, []), (2, [1, 2]), (6, [1, 2, 4, 6])):
        tried.clear()
        monkeypatch.setattr(threads, "count_free_cores", lambda most, free=free: free)
        threads.choose(RECIPE, torch.zeros(64, 28, 28, dtype=torch.uint8))
        assert tried == expected


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [({1: 100, 2: 160}, 2), ({1: 100, 2: 109}, 1), ({1: 100, 2: 160, 4: 170}, 2), ({1: 9, 2: 1}, 1)],
)
def test_the_fewest_threads_with_nearly_the_best_speed_are_chosen(
    monkeypatch: pytest.MonkeyPatch, speeds: dict[int, float], chosen: int
) -> None:
    most = max(speeds)
    monkeypatch.setattr(torch, "get_num_threads", lambda: most)
    monkeypatch.setattr(threads, "count_free_cores", lambda most: most)
    monkeypatch.setattr(threads, "_measure_speed", lambda recipe, images, number: speeds[number])
    assert threads.choose(RECIPE, torch.zeros(64, 28, 28, dtype=torch.uint8)) == chosen


@pytest.mark.parametrize("arch", list(RECIPES["book"]))
def test_measuring_changes_neither_random_state_nor_threads(monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    monkeypatch.setattr(threads, "LOOK_SECONDS", 0.0)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    before = torch.get_num_threads()
    images = mnist.load(Settings().data_dir)[:2_000]
    assert threads._measure_speed(RECIPES["tuned"][arch], images, 2) > 0
    assert torch.rand(1).equal(expected)
    assert torch.get_num_threads() == before


def test_more_threads_than_cores_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU that would be slow without end. It is the same when the run goes on."""
    trainer = make_trainer(tmp_path, monkeypatch, 200)
    states: list[State] = []
    arguments: Any = {"on_progress": lambda progress: None, "should_stop": lambda: True, "measure_every": None}
    trainer.train(**arguments, on_state=states.append)
    assert states[0]["threads"] == count_cores()


def test_a_state_of_an_earlier_release_goes_on_with_torchs_own_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, monkeypatch, 2)
    assert trainer._find_threads({"seed": 1}) == torch.get_num_threads()


def make_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None) -> Trainer:
    monkeypatch.setattr("worker.trainer.make_measure", lambda *_: lambda G: {"fid": 1.0})
    few = mnist.load(Settings().data_dir)[:640]
    monkeypatch.setattr(mnist, "load_summed", lambda _, name=mnist.TRAIN_IMAGES: (few, mnist.SHA256[name]))
    settings = Settings(model_dir=tmp_path, device="cpu", training_threads=number)
    return Trainer(settings, arch="dcgan", recipe="book", epochs=2, seed=1)


def test_a_run_that_goes_on_keeps_its_threads_and_so_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dcgan's weights differ in their last bits between one thread and two."""
    found: list[State] = []
    trainer = make_trainer(tmp_path, monkeypatch, 2)
    whole = trainer.train(
        on_progress=lambda progress: None, should_stop=lambda: False, measure_every=None, on_state=found.append
    )
    assert whole is not None
    assert trainer.publish(whole, {}).threads == 2

    steps: list[object] = []
    found.clear()
    trainer = make_trainer(tmp_path, monkeypatch, 2)
    trainer.train(
        on_progress=steps.append, should_stop=lambda: len(steps) == 5, measure_every=None, on_state=found.append
    )
    assert found[0]["threads"] == 2
    later = make_trainer(tmp_path, monkeypatch, 1)  # another host, with other settings
    resumed = later.train(
        on_progress=lambda progress: None, should_stop=lambda: False, measure_every=None, resume=found[0]
    )
    assert resumed is not None
    assert later.publish(resumed, {}).threads == 2
    assert all(tensor.equal(resumed.generator[name]) for name, tensor in whole.generator.items())

    alone = make_trainer(tmp_path, monkeypatch, 1)
    other = alone.train(on_progress=lambda progress: None, should_stop=lambda: False, measure_every=None)
    assert other is not None
    assert alone.publish(other, {}).threads == 1
