import dataclasses
import io
from collections import Counter
from functools import partial
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models import mnist
from models.archs import ARCHS
from worker import schedules, step, training
from worker.objectives import OBJECTIVES, PENALTIES
from worker.recipes import RECIPES, DOutput, Recipe
from worker.settings import Settings
from worker.state import State, fits

CPU = torch.device("cpu")
ROWS = [pytest.param(name, arch, id=f"{name}-{arch}") for name, rows in RECIPES.items() for arch in rows]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return mnist.load(Settings().data_dir)


def short(name: str, arch: str, epochs: int = 1, **changes: Any) -> Recipe:
    return dataclasses.replace(RECIPES[name][arch], epochs=epochs, batch=16, **changes)


def take(images: torch.Tensor, recipe: Recipe, steps: int) -> torch.Tensor:
    """Images for so many steps in an epoch."""
    return images[: steps * recipe.images_per_step]


def run(recipe: Recipe, images: torch.Tensor, seed: int = 0, **callbacks: Any) -> training.Trained:
    trained = training.train(recipe=recipe, images=images, seed=seed, device=CPU, **callbacks)
    assert trained is not None
    return trained


@pytest.mark.parametrize(("name", "arch"), ROWS)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(name: str, arch: str, images: torch.Tensor) -> None:
    recipe = short(name, arch, 2)
    first, second, other = (run(recipe, take(images, recipe, 3), seed) for seed in (1, 1, 2))
    for weights, again in ((first.generator, second.generator), (first.discriminator, second.discriminator)):
        assert all(tensor.equal(again[key]) for key, tensor in weights.items())
    assert not all(tensor.equal(other.generator[key]) for key, tensor in first.generator.items())
    assert first.samples[1].equal(second.samples[1])


@pytest.mark.parametrize(("name", "arch"), ROWS)
def test_every_epoch_is_recorded(name: str, arch: str, images: torch.Tensor) -> None:
    recipe = short(name, arch, 3)
    trained = run(recipe, take(images, recipe, 3))
    assert [epoch.epoch for epoch in trained.history] == [1, 2, 3]
    assert len(trained.samples) == 3
    assert all(drawn.shape == (64, 28, 28) and drawn.dtype == torch.uint8 for drawn in trained.samples)
    assert not trained.samples[0].equal(trained.samples[2])
    seconds = [epoch.seconds for epoch in trained.history]
    assert sorted(seconds) == seconds
    assert all(epoch.images_per_second > 0 for epoch in trained.history)
    verdicts = [value for epoch in trained.history for value in (epoch.d_real, epoch.d_fake)]
    if trained.history[0].d_output == DOutput.PROBABILITY:
        assert all(0 < verdict < 1 for verdict in verdicts)
    else:
        assert (RECIPES[name][arch].objective, trained.history[0].d_output) == ("wasserstein", DOutput.SCORE)


@pytest.mark.parametrize(("name", "arch"), ROWS)
def test_both_networks_learn(name: str, arch: str, images: torch.Tensor) -> None:
    recipe = short(name, arch)
    trained = run(recipe, take(images, recipe, 3))
    torch.manual_seed(0)
    G, D = ARCHS[arch].generator(), ARCHS[arch].discriminator(recipe.sigmoid)
    for before, after in ((G.state_dict(), trained.generator), (D.state_dict(), trained.discriminator)):
        assert list(before) == list(after)
        assert all(not tensor.equal(after[key]) for key, tensor in before.items())


class ScalarReads(TorchDispatchMode):
    """Counts the host's reads of values on the device. Each read would wait for the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_floating_point():
            self.count["reads"] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "arch"), ROWS)
def test_no_step_waits_for_the_device(name: str, arch: str, images: torch.Tensor) -> None:
    reads = []
    for batches in (1, 4):
        with ScalarReads() as mode:
            recipe = short(name, arch)
            run(recipe, take(images, recipe, batches))
        reads.append(mode.count["reads"])
    assert reads[0] == reads[1]


def test_the_reads_of_a_step_would_be_counted() -> None:
    with ScalarReads() as mode:
        torch.ones(3).sum().item()
    assert mode.count["reads"] == 1


def test_the_steps_of_a_batch_are_those_of_the_recipe(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    for name in ("_d_step", "_g_step"):
        original = getattr(step, name)

        def counted(*args: Any, name: str = name, original: Any = original) -> Any:
            calls[name] += 1
            return original(*args)

        monkeypatch.setattr(step, name, counted)
    penalties = {name: partial(counted, name=name, original=function) for name, function in PENALTIES.items()}
    monkeypatch.setattr(step, "PENALTIES", penalties)
    run(short("book", "wgan"), images[:55])
    assert calls == {"_d_step": 15, "_g_step": 3, "gp": 15}  # the partial batch is dropped
    calls.clear()
    run(short("logistic", "wgan"), images[:80])
    assert calls == {"_d_step": 5, "_g_step": 5, "r1": 2}  # at steps 0 and 4
    calls.clear()
    run(short("tuned", "wgan", d_steps=3), images[: 3 * 3 * 16 + 1])
    assert calls == {"_d_step": 9, "_g_step": 3, "gp": 3}  # at steps 0, 4 and 8 of D


OBJECTIVE_OF = {
    ("book", "vanilla"): ("bce", DOutput.PROBABILITY, None),
    ("book", "dcgan"): ("bce", DOutput.PROBABILITY, None),
    ("book", "wgan"): ("wasserstein", DOutput.SCORE, "gp"),
    ("tuned", "vanilla"): ("logistic", DOutput.PROBABILITY, "r1"),
    ("tuned", "dcgan"): ("logistic", DOutput.PROBABILITY, "r1"),
    ("tuned", "wgan"): ("wasserstein", DOutput.SCORE, "gp"),
    ("logistic", "wgan"): ("logistic", DOutput.PROBABILITY, "r1"),
}


@pytest.mark.parametrize(("name", "arch"), ROWS)
def test_a_run_minimises_the_objective_of_its_recipe(
    name: str, arch: str, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[tuple[str, str]] = set()

    def note(what: str, key: str, function: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            used.add((what, key))
            return function(*arguments)

        return noted

    losses = {
        key: dataclasses.replace(o, d_loss=note("D", key, o.d_loss), g_loss=note("G", key, o.g_loss))
        for key, o in OBJECTIVES.items()
    }
    monkeypatch.setattr(step, "OBJECTIVES", losses)
    monkeypatch.setattr(step, "PENALTIES", {key: note("penalty", key, call) for key, call in PENALTIES.items()})
    objective, d_output, penalty = OBJECTIVE_OF[name, arch]
    recipe = short(name, arch)
    (epoch,) = run(recipe, take(images, recipe, 3)).history
    assert used == {("D", objective), ("G", objective), *([("penalty", penalty)] if penalty else [])}
    assert epoch.d_output == d_output
    expected = epoch.d_real - epoch.d_fake if objective == "wasserstein" else None
    assert (epoch.wasserstein, epoch.describe().get("wasserstein")) == (expected, expected)


@pytest.mark.parametrize(("d_fresh", "expected"), [(True, [0, 1, 2]), (False, [0, 0, 0])])
def test_each_step_of_d_has_real_images_of_its_own_only_if_the_recipe_says_so(
    d_fresh: bool, expected: list[int], images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def note(networks: Any, number: int, real: torch.Tensor) -> torch.Tensor:
        seen.append(real)
        return torch.zeros(3)

    monkeypatch.setattr(step, "_d_step", note)
    recipe = short("tuned", "wgan", d_steps=3, d_fresh=d_fresh)
    real = mnist.scale(take(images, recipe, 1))
    step.make_step(step.make_networks(recipe, images, CPU))(0, real)
    assert all(batch.equal(real[16 * i : 16 * (i + 1), None]) for batch, i in zip(seen, expected, strict=True))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.4] * 4), ("linear", [0.4, 0.3, 0.2, 0.1])],
)
def test_a_schedule_ends_with_the_run(
    schedule: str, expected: list[float], images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    original = step._g_step

    def noted(run: Any, count: int) -> Any:
        rates.append(run.g_optimizer.param_groups[0]["lr"])
        return original(run, count)

    monkeypatch.setattr(step, "_g_step", noted)
    run(short("tuned", "dcgan", 2, lr_g=0.4, schedule=schedule), images[:32])
    assert rates == pytest.approx(expected)


def test_the_average_is_published_not_the_last_step(images: torch.Tensor) -> None:
    plain, averaged = (run(short("book", "vanilla", 2, ema=ema), images[:160]) for ema in (0.0, 0.9))
    assert all(tensor.equal(averaged.discriminator[key]) for key, tensor in plain.discriminator.items())
    assert not any(tensor.equal(averaged.generator[key]) for key, tensor in plain.generator.items())


def test_the_average_spans_the_same_share_of_however_many_steps() -> None:
    average = [torch.zeros(1)]
    for number in range(2001):
        schedules._average(0.1, number, average, [torch.full((1,), float(number))])
        if number in (200, 2000):  # step t has the weight t⁹, so the mean is 10/11
            assert average[0].item() == pytest.approx(number * 10 / 11, rel=0.01)


def test_a_discriminator_in_eval_mode_keeps_its_statistics_of_real_images(images: torch.Tensor) -> None:
    few, more = (run(short("tuned", "dcgan", lr_d=0.0), images[:count]).discriminator for count in (16, 160))
    assert few["network.3.running_mean"].abs().sum() > 0
    assert int(few["network.3.num_batches_tracked"]) == int(more["network.3.num_batches_tracked"]) == 1
    trained = run(short("book", "dcgan"), images[:160]).discriminator
    assert int(trained["network.3.num_batches_tracked"]) > 1


def test_a_generator_that_goes_to_eval_mode_keeps_its_statistics(images: torch.Tensor) -> None:
    def statistics(g_eval: float) -> list[torch.Tensor]:
        recipe = short("tuned", "dcgan", 3, g_eval=g_eval)
        states = [torch.load(io.BytesIO(state), weights_only=True) for state in states_of(recipe, images[:80])]
        (name,) = [name for name in states[0]["stateful"][0] if name.endswith("running_mean")][:1]
        return [part[name] for state in states for part in (state["stateful"][0], state["stateful"][2])]  # G, average

    first, *later = statistics(1 / 3)
    assert first.abs().sum() > 0
    assert all(again.equal(first) for again in later)
    first, *later = statistics(1.0)
    assert not any(again.equal(first) for again in later)


def test_metrics_are_taken_every_so_many_epochs_without_a_change_to_the_run(images: torch.Tensor) -> None:
    seen: list[torch.nn.Module] = []

    def measure(G: torch.nn.Module) -> dict[str, float]:
        assert not G.training
        seen.append(G)
        return {"fid": float(len(seen))}

    for recipe in (short("book", "dcgan", 5), short("tuned", "dcgan", 5)):
        seen.clear()
        measured = run(recipe, images[:32], measure=measure, measure_every=2)
        assert [epoch.metrics.get("fid") for epoch in measured.history] == [None, 1.0, None, 2.0, None]
        plain = run(recipe, images[:32])
        assert all(tensor.equal(measured.generator[key]) for key, tensor in plain.generator.items())


def test_progress_is_told_after_every_step_and_epoch(images: torch.Tensor) -> None:
    told: list[training.Progress] = []
    run(short("book", "vanilla", 2), images[:32], on_progress=told.append)
    assert [(p.epoch, p.step, p.last.epoch if p.last else 0) for p in told] == [
        (1, 1, 0), (1, 2, 0), (1, 2, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2),
    ]  # fmt: skip
    assert told[-1].eta_seconds == 0
    assert all((p.steps, p.epochs) == (2, 2) for p in told)


def test_a_stop_within_an_epoch_gives_the_finished_ones(images: torch.Tensor) -> None:
    told: list[training.Progress] = []
    stopped = run(short("book", "vanilla", 9), images[:48], on_progress=told.append, should_stop=lambda: len(told) >= 9)
    whole = run(short("book", "vanilla", 2), images[:48])
    assert [epoch.epoch for epoch in stopped.history] == [1, 2]
    assert all(tensor.equal(stopped.generator[key]) for key, tensor in whole.generator.items())


def states_of(recipe: Recipe, images: torch.Tensor, **callbacks: Any) -> list[bytes]:
    """The states that a run hands out, in their saved form."""
    states: list[bytes] = []

    def keep(state: State) -> None:
        content = io.BytesIO()
        torch.save(state, content)
        states.append(content.getvalue())

    training.train(recipe=recipe, images=images, seed=0, device=CPU, on_state=keep, **callbacks)
    return states


@pytest.mark.parametrize(("name", "arch"), ROWS)
def test_a_run_goes_on_from_any_of_its_states_bit_for_bit(
    name: str, arch: str, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = short(name, arch, 2)
    whole = run(recipe, take(images, recipe, 5))
    monkeypatch.setattr(training, "STATE_SECONDS", -1.0)  # a state before every step
    states = states_of(recipe, take(images, recipe, 5))
    assert len(states) == 2 * 5 + 2
    for content in (states[at] for at in (0, 3, 5, 6, 11)):  # also between two epochs, and after the last
        state = torch.load(io.BytesIO(content), weights_only=True)
        went_on = run(recipe, take(images, recipe, 5), resume=state)
        for weights, again in ((whole.generator, went_on.generator), (whole.discriminator, went_on.discriminator)):
            assert all(tensor.equal(again[key]) for key, tensor in weights.items()), state["number"]
        assert [tensor.equal(again) for tensor, again in zip(whole.samples, went_on.samples, strict=True)] == [True] * 2
        assert [(e.epoch, e.d_loss) for e in went_on.history] == [(e.epoch, e.d_loss) for e in whole.history]
        assert went_on.history[-1].seconds > state["epoch_seconds"]


def test_a_state_of_a_release_without_fresh_batches_fits(images: torch.Tensor) -> None:
    for name, arch, does in (("book", "wgan", True), ("tuned", "wgan", False)):
        recipe = short(name, arch)
        state = torch.load(io.BytesIO(states_of(recipe, take(images, recipe, 1))[-1]), weights_only=True)
        state["recipe"].pop("d_fresh", None)
        assert fits(state, recipe, 0, "of the images") is does


def test_a_state_fits_its_data_set_only(images: torch.Tensor) -> None:
    recipe = short("book", "vanilla")
    state = torch.load(io.BytesIO(states_of(recipe, take(images, recipe, 1))[-1]), weights_only=True)
    state["dataset_sha256"] = "one"
    assert fits(state, recipe, 0, "one")
    assert not fits(state, recipe, 0, "another")


def test_a_run_that_is_stopped_hands_out_its_state(images: torch.Tensor) -> None:
    told: list[training.Progress] = []
    recipe = short("book", "vanilla")
    (content,) = states_of(recipe, images[:80], on_progress=told.append, should_stop=lambda: len(told) == 3)
    assert torch.load(io.BytesIO(content), weights_only=True)["number"] == 3


def test_an_epoch_that_was_due_to_be_measured_is_measured_after_going_on(images: torch.Tensor) -> None:
    def broken(G: torch.nn.Module) -> dict[str, float]:
        raise KeyboardInterrupt

    recipe = short("tuned", "vanilla", 2)
    states: list[State] = []
    with pytest.raises(KeyboardInterrupt):
        run(recipe, images[:32], measure=broken, measure_every=1, on_state=states.append)
    went_on = run(recipe, images[:32], measure=lambda G: {"fid": 1.0}, measure_every=1, resume=states[-1])
    assert [epoch.metrics for epoch in went_on.history] == [{"fid": 1.0}] * 2


def test_a_stop_before_the_first_epoch_gives_nothing(images: torch.Tensor) -> None:
    recipe = short("book", "vanilla")
    assert training.train(recipe=recipe, images=images[:32], seed=0, device=CPU, should_stop=lambda: True) is None


def test_too_few_images_are_an_error(images: torch.Tensor) -> None:
    with pytest.raises(training.TrainingError, match="15 images"):
        run(short("book", "vanilla"), images[:15])


def test_losses_that_are_not_finite_are_an_error(images: torch.Tensor) -> None:
    with pytest.raises(training.TrainingError, match="epoch 1 are not finite"):
        run(short("logistic", "wgan", lr_d=float("inf")), images[:48])


def test_the_global_generator_is_left_as_it_was(images: torch.Tensor) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(short("book", "vanilla"), images[:16])
    assert torch.rand(1).equal(expected)


@pytest.mark.parametrize("arch", ARCHS)
def test_what_was_trained_can_be_saved_and_loaded(arch: str, images: torch.Tensor) -> None:
    recipe = short("tuned", arch)
    trained = run(recipe, take(images, recipe, 1))
    for weights, network in (
        (trained.generator, ARCHS[arch].generator()),
        (trained.discriminator, ARCHS[arch].discriminator(False)),
    ):
        network.load_state_dict(safetensors.torch.load(safetensors.torch.save(weights)))


@pytest.mark.parametrize(("name", "arch"), [row for row in ROWS if ARCHS[row.values[1]].bfloat16])  # type: ignore[index]
def test_bfloat16_changes_the_rounding_of_a_run_and_nothing_else(
    name: str, arch: str, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for has_it in (False, True):
        monkeypatch.setattr(step, "multiplies_bfloat16", lambda device, has_it=has_it: has_it)
        recipe = short(name, arch)
        runs.append(run(recipe, take(images, recipe, 3)))
    exact, rounded = runs
    assert all(
        tensor.dtype != torch.bfloat16 for tensor in (*rounded.generator.values(), *rounded.discriminator.values())
    )
    assert exact.history[0].d_loss != rounded.history[0].d_loss
    assert rounded.history[0].d_loss == pytest.approx(exact.history[0].d_loss, rel=0.05)
    assert rounded.history[0].g_loss == pytest.approx(exact.history[0].g_loss, rel=0.05)


def test_an_earlier_release_can_go_on_from_a_state_and_its_states_can_be_read(images: torch.Tensor) -> None:
    """It knows no d_output of an epoch."""
    recipe = short("tuned", "vanilla", 3)
    found: list[State] = []
    run(recipe, images[:48], on_state=found.append)
    state = found[0]
    assert all("d_output" not in epoch for epoch in state["history"])
    assert "d_fresh" not in state["recipe"]  # it compares the whole recipe
    del state["d_outputs"], state["threads"]  # as an earlier release writes it
    again = run(recipe, images[:48], resume=state)
    assert [epoch.d_output for epoch in again.history] == ["raw", "probability", "probability"]
