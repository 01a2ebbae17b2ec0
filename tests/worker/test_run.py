"""One job from claim to version, on full MNIST and a real Valkey, in this process."""

import io
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import worker.trainer
from models import classifier, mnist, publishing, versions
from models.archs import ARCHS
from tests.processes import eventually
from tests.versions import publish
from worker import saved, training
from worker.jobs import MAX_LOST, Job, JobState, JobStore, TrainRequest
from worker.run import run_job
from worker.settings import Settings
from worker.state import Epoch
from worker.trainer import Trainer

RUN_SECONDS = 0.15  # about the time of a run whose training is faked


def never() -> bool:
    return False


def run(job_id: str, store: JobStore, settings: Settings, stopping: Callable[[], bool] = never) -> JobState | None:
    """Run a job as the task does."""
    return run_job(job_id, store, "worker", settings, stopping)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(model_dir=tmp_path, device="cpu")


@pytest.fixture
def job(store: JobStore) -> Job:
    request = {"arch": "vanilla", "recipe": "book", "epochs": 1, "seed": 3}
    return store.create(TrainRequest.model_validate(request))[0]


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the metrics, which take as long as the training, in tests that do not need them."""
    monkeypatch.setattr(worker.trainer, "make_measure", lambda *_: lambda G: {"fid": 1.0})


def ended(store: JobStore, job: Job) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def test_a_job_becomes_a_version(store: JobStore, settings: Settings, job: Job) -> None:
    assert run(job.id, store, settings) is JobState.SUCCEEDED
    after = ended(store, job)
    assert after.version is not None
    manifest, _ = versions.read_generator(settings.model_dir / "vanilla" / str(after.version))
    assert (manifest.job, manifest.seed, manifest.epochs) == (job.id, 3, 1)
    assert manifest.command == "DIGITS_TRAINING_THREADS=1 digits train --arch vanilla --recipe book --epochs 1 --seed 3"
    assert manifest.recipe["lr_g"] == 1e-3
    assert (after.epoch, after.step, after.steps) == (1, 937, 937)
    assert after.d_loss is not None
    assert manifest.floors == classifier.facts().floors
    assert list(manifest.metrics) == list(manifest.floors)
    assert manifest.metrics["fid"] > 20 * manifest.floors["fid"]  # one epoch is not enough
    assert manifest.classifier_sha256 == classifier.sha256()
    assert after.eta_seconds == 0
    assert list(settings.model_dir.glob(".runs/*")) == []  # nothing is left of a job that has ended
    assert [path.name for path in (settings.model_dir / "vanilla").iterdir()].count(".jobs") == 1


def test_a_job_that_is_not_queued_is_left_alone(store: JobStore, settings: Settings, job: Job) -> None:
    store.cancel(job.id)
    assert run(job.id, store, settings) is None
    assert ended(store, job).state is JobState.CANCELED


def test_a_job_that_cannot_run_has_failed_with_the_reason(store: JobStore, tmp_path: Path, job: Job) -> None:
    settings = Settings(model_dir=tmp_path, data_dir=tmp_path / "none", device="cpu")
    assert run(job.id, store, settings) is JobState.FAILED
    error = ended(store, job).error
    assert error is not None
    assert "DIGITS_DATA_DIR" in error


def test_a_model_directory_that_cannot_be_written_fails_the_job(store: JobStore, tmp_path: Path, job: Job) -> None:
    (tmp_path / "file").write_text("not a folder")
    settings = Settings(model_dir=tmp_path / "file", device="cpu")
    assert run(job.id, store, settings) is JobState.FAILED
    assert "Not a directory" in (ended(store, job).error or "")


def test_a_canceled_job_publishes_nothing(store: JobStore, settings: Settings, job: Job) -> None:
    found: list[JobState | None] = []
    thread = threading.Thread(target=lambda: found.append(run(job.id, store, settings)))
    thread.start()
    while ended(store, job).epoch is None:
        pass
    store.cancel(job.id)
    thread.join()
    assert found == [JobState.CANCELED]
    assert ended(store, job).version is None
    assert not list(settings.model_dir.glob("vanilla/*"))


def test_a_job_is_canceled_while_it_is_measured(
    store: JobStore, settings: Settings, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = threading.Event()

    def make_measure(*_: Any) -> Any:
        return lambda G: measured.wait()

    monkeypatch.setattr(worker.trainer, "make_measure", make_measure)
    thread = threading.Thread(target=run, args=(job.id, store, settings))
    thread.start()
    eventually(lambda: ended(store, job).step == 937, "it is measured")
    store.cancel(job.id)
    thread.join()
    assert ended(store, job).state is JobState.CANCELED
    measured.set()


def test_a_run_whose_job_went_elsewhere_publishes_nothing(store: JobStore, settings: Settings, job: Job) -> None:
    found: list[JobState | None] = [JobState.FAILED]
    thread = threading.Thread(target=lambda: found.append(run(job.id, store, settings)))
    thread.start()
    while ended(store, job).epoch is None:
        pass
    store.lose(job.id, "worker")
    other = store.claim(job.id, "another worker")
    thread.join()
    assert found[-1] is None
    assert other is not None
    assert not list(settings.model_dir.glob("vanilla/*"))
    assert ended(store, job) == other.job


def test_a_stopped_job_returns_to_the_queue_and_publishes_nothing(
    store: JobStore, settings: Settings, job: Job
) -> None:
    assert run(job.id, store, settings, lambda: True) is JobState.QUEUED
    assert ended(store, job).state is JobState.QUEUED
    assert not list(settings.model_dir.glob("vanilla/*"))
    assert [path.name for path in settings.model_dir.glob(".runs/*/*")] == ["state-000000000.pt"]


def test_a_job_that_an_earlier_run_has_published_only_ends(store: JobStore, settings: Settings, job: Job) -> None:
    version = publish(settings.model_dir, "vanilla", job=job.id).version
    assert run(job.id, store, settings) is JobState.SUCCEEDED
    assert (ended(store, job).version, ended(store, job).step) == (version, None)


def test_a_job_that_was_to_be_canceled_while_it_might_have_been_published(
    store: JobStore, settings: Settings, job: Job
) -> None:
    claim = store.claim(job.id, "worker")
    assert claim is not None
    store.start_publishing(claim)
    store.cancel(job.id)
    store.lose(job.id, "worker")
    assert run(job.id, store, settings) is JobState.CANCELED
    assert ended(store, job).state is JobState.CANCELED
    with pytest.raises(publishing.JobClosedError):  # by a run that slept meanwhile
        publish(settings.model_dir, "vanilla", job=job.id)
    assert list(settings.model_dir.glob("vanilla/[0-9]*")) == []


@pytest.mark.parametrize("is_published", [False, True])
def test_a_job_that_lost_its_workers_while_it_might_have_been_published_is_looked_for_and_not_tried_again(
    store: JobStore, settings: Settings, job: Job, is_published: bool
) -> None:
    for _ in range(MAX_LOST):
        claim = store.claim(job.id, "worker")
        assert claim is not None
        store.start_publishing(claim)
        store.lose(job.id, "worker")
    if is_published:
        publish(settings.model_dir, "vanilla", job=job.id)
    run(job.id, store, settings)
    after = ended(store, job)
    if is_published:
        assert (after.state, after.error) == (JobState.SUCCEEDED, None)
    else:
        assert (after.state, after.error) == (
            JobState.FAILED,
            "worker lost: 3 attempts in a row ended without a word or a new state",
        )


@pytest.mark.usefixtures("unmeasured")
def test_an_error_after_the_version_was_published_is_no_failure(
    store: JobStore, settings: Settings, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish_and_fail(*_: Any, **__: Any) -> None:
        publish(settings.model_dir, "vanilla", job=job.id)
        raise OSError("the share is gone")

    monkeypatch.setattr(Trainer, "publish", publish_and_fail)
    assert run(job.id, store, settings) is JobState.SUCCEEDED
    assert ended(store, job).version is not None


@pytest.mark.usefixtures("unmeasured")
def test_a_run_that_fails_after_it_lost_the_job_does_not_close_it(
    store: JobStore, settings: Settings, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_and_fail(*_: Any, **__: Any) -> None:
        store.lose(job.id, "worker")
        store.claim(job.id, "another worker")
        raise OSError("the share is gone")

    monkeypatch.setattr(Trainer, "publish", lose_and_fail)
    assert run(job.id, store, settings) is None
    assert publish(settings.model_dir, "vanilla", job=job.id).job == job.id  # by the other run


@pytest.mark.usefixtures("unmeasured")
def test_states_of_another_recipe_and_damaged_ones_are_replaced(
    store: JobStore, settings: Settings, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved.open_folder(settings.model_dir, job.id)
    content = io.BytesIO()
    torch.save({"recipe": {"name": "another"}, "seed": job.seed, "number": 5}, content)
    saved.write(folder, 5, content.getvalue())
    saved.write(folder, 6, content.getvalue()[:100])
    kept: list[set[int]] = []
    write = saved.write

    def note(*arguments: Any, **named: Any) -> None:
        write(*arguments, **named)
        kept.append({int(path.stem.removeprefix("state-")) for path, _ in saved.read(folder)})

    monkeypatch.setattr(saved, "write", note)
    assert run(job.id, store, settings) is JobState.SUCCEEDED
    after = ended(store, job)
    assert (after.resumes, after.step, after.saved_step) == (0, 937, 937 * after.epochs)
    assert kept[0] == {937}  # in place of the others


def test_a_canceled_job_is_never_published_however_the_two_race(
    store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This fails if jobs.lua cancels a running job at once: the job is then canceled and published."""
    arch = ARCHS["vanilla"]
    trained = training.Trained(
        arch.generator().state_dict(),
        arch.discriminator(True).state_dict(),
        [torch.zeros(64, 28, 28, dtype=torch.uint8)],
        [Epoch(1, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, {"fid": 1.0})],
    )
    monkeypatch.setattr(training, "train", lambda **_: trained)
    images = torch.zeros(1, 28, 28, dtype=torch.uint8)

    def load(_: Path, name: str = mnist.TRAIN_IMAGES) -> tuple[torch.Tensor, str]:
        return images, mnist.SHA256[name]

    monkeypatch.setattr(mnist, "load_summed", load)  # do not read the data a hundred times
    chance = random.Random(0)
    ends = []
    for _ in range(100):
        job, _ = store.create(TrainRequest.model_validate({"arch": "vanilla", "epochs": 1}))
        thread = threading.Thread(target=run, args=(job.id, store, settings))
        thread.start()
        time.sleep(RUN_SECONDS * chance.random() ** 8)  # mostly early, since a run publishes soon
        store.cancel(job.id)
        thread.join()
        state = ended(store, job).state
        published = publishing.finish_publication(settings.model_dir, "vanilla", job.id)
        assert (state is JobState.SUCCEEDED) == (published is not None)
        ends.append(state)
    assert set(ends) == {JobState.SUCCEEDED, JobState.CANCELED}  # each of the two won sometimes


def start(store: JobStore, settings: Settings, job: Job, stopping: Callable[[], bool] = never) -> threading.Thread:
    thread = threading.Thread(target=run, args=(job.id, store, settings, stopping))
    thread.start()
    return thread


@pytest.fixture
def long_job(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of a thousand short epochs."""
    few = mnist.load(Settings().data_dir)[:6_400]
    monkeypatch.setattr(mnist, "load_summed", lambda _, name=mnist.TRAIN_IMAGES: (few, mnist.SHA256[name]))
    return store.create(TrainRequest.model_validate({"arch": "vanilla", "recipe": "book", "epochs": 1_000}))[0]


@pytest.mark.usefixtures("unmeasured")
def test_what_is_finished_can_be_kept(store: JobStore, settings: Settings, long_job: Job) -> None:
    thread = start(store, settings, long_job)
    eventually(lambda: (ended(store, long_job).epoch or 0) >= 3, "epochs are finished")
    asked = store.cancel(long_job.id, keep=True)
    assert asked is not None
    assert (asked.state, asked.cancel_requested, asked.keep) == (JobState.RUNNING, True, True)
    thread.join()
    after = ended(store, long_job)
    assert after.state is JobState.CANCELED
    manifest, _ = versions.read_generator(settings.model_dir / "vanilla" / str(after.version))
    assert 2 <= manifest.epochs < 1_000
    assert len(versions.read_history(settings.model_dir / "vanilla" / str(after.version))) == manifest.epochs
    events = store.read_events({long_job.id: "0"}, 10_000)[long_job.id]
    assert events is not None
    assert [event.kind for event in events.events[-2:]] == ["published", "ended"]


@pytest.mark.usefixtures("unmeasured")
def test_a_cancellation_that_keeps_nothing_stays_one(store: JobStore, settings: Settings, long_job: Job) -> None:
    """To keep comes too late, or is taken back."""
    for first, then in ((False, True), (True, False)):
        job = store.create(TrainRequest.model_validate({"arch": "vanilla", "recipe": "book", "epochs": 1_000}))[0]
        claim = store.claim(job.id, "worker")
        assert claim is not None
        store.cancel(job.id, keep=first)
        store.cancel(job.id, keep=then)
        assert store.report(claim) == "canceled"


def test_to_keep_without_a_finished_epoch_is_a_cancellation(store: JobStore, job: Job) -> None:
    claim = store.claim(job.id, "worker")
    assert claim is not None
    store.cancel(job.id, keep=True)
    assert store.give_back(claim)
    assert ended(store, job).state is JobState.CANCELED


@pytest.mark.usefixtures("unmeasured")
def test_a_queued_job_that_has_begun_is_kept_by_its_next_run(
    store: JobStore, settings: Settings, long_job: Job
) -> None:
    """The run goes on from within an epoch, and ends that one first: its weights are no longer those of the last."""
    stop = threading.Event()
    thread = start(store, settings, long_job, stop.is_set)
    eventually(lambda: (ended(store, long_job).epoch or 0) >= 3, "epochs are finished")
    stop.set()
    thread.join()
    given_back = ended(store, long_job)
    assert given_back.state is JobState.QUEUED
    _, newest = next(saved.read(settings.model_dir / ".runs" / long_job.id))
    state = torch.load(io.BytesIO(newest), weights_only=True)
    asked = store.cancel(long_job.id, keep=True)
    assert asked is not None
    assert asked.state is JobState.QUEUED
    assert run(long_job.id, store, settings) is JobState.CANCELED
    after = ended(store, long_job)
    manifest, _ = versions.read_generator(settings.model_dir / "vanilla" / str(after.version))
    assert manifest.epochs == len(state["history"]) + (len(state["order"]) > 0)


@pytest.mark.usefixtures("unmeasured")
def test_nothing_finished_is_nothing_to_keep(store: JobStore, settings: Settings, long_job: Job) -> None:
    fresh = store.create(TrainRequest.model_validate({"arch": "vanilla", "epochs": 9}))[0]
    asked = store.cancel(fresh.id, keep=True)
    assert asked is not None
    assert asked.state is JobState.CANCELED  # it had not begun
    begun = store.create(TrainRequest.model_validate({"arch": "wgan", "recipe": "book", "epochs": 9}))[0]
    thread = start(store, settings, begun)
    eventually(lambda: ended(store, begun).step, "it trains")
    store.cancel(begun.id, keep=True)
    thread.join()
    assert (ended(store, begun).state, ended(store, begun).version) == (JobState.CANCELED, None)
    assert versions.find_folders(settings.model_dir).keys() == versions.find_folders(settings.model_dir / "none").keys()
