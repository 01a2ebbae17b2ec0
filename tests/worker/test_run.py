"""One job from claim to version, on full MNIST and a real Valkey, in this process."""

import threading
from pathlib import Path

import pytest

from models import checkpoint, classifier
from worker.jobs import Job, JobState, JobStore, TrainRequest
from worker.run import run_job
from worker.settings import Settings


def never() -> bool:
    return False


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(model_dir=tmp_path, device="cpu")


@pytest.fixture
def job(store: JobStore) -> Job:
    request = {"arch": "vanilla", "recipe": "book", "epochs": 1, "seed": 3}
    return store.create(TrainRequest.model_validate(request))[0]


def ended(store: JobStore, job: Job) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def test_a_job_becomes_a_version(store: JobStore, settings: Settings, job: Job) -> None:
    assert run_job(job.id, store, settings, never) is JobState.SUCCEEDED
    after = ended(store, job)
    assert after.version is not None
    manifest, _ = checkpoint.read_generator(settings.model_dir / "vanilla" / str(after.version))
    assert (manifest.job, manifest.seed, manifest.epochs) == (job.id, 3, 1)
    assert manifest.command == "digits train --arch vanilla --recipe book --epochs 1 --seed 3"
    assert manifest.recipe["lr_g"] == 1e-3
    assert (after.epoch, after.step, after.steps) == (1, 937, 937)
    assert after.d_loss is not None
    assert manifest.floors == classifier.facts().floors
    assert list(manifest.metrics) == list(manifest.floors)
    assert manifest.metrics["fid"] > 20 * manifest.floors["fid"]  # an epoch is not enough
    assert manifest.classifier_sha256 == classifier.sha256()
    assert after.eta_seconds == 0


def test_a_job_that_is_not_queued_is_left_alone(store: JobStore, settings: Settings, job: Job) -> None:
    store.cancel(job.id)
    assert run_job(job.id, store, settings, never) is None
    assert ended(store, job).state is JobState.CANCELED


def test_a_job_that_cannot_run_has_failed_with_the_reason(store: JobStore, tmp_path: Path, job: Job) -> None:
    settings = Settings(model_dir=tmp_path, data_dir=tmp_path / "none", device="cpu")
    assert run_job(job.id, store, settings, never) is JobState.FAILED
    error = ended(store, job).error
    assert error is not None
    assert "DIGITS_DATA_DIR" in error


def test_a_model_directory_that_cannot_be_written_fails_the_job(store: JobStore, tmp_path: Path, job: Job) -> None:
    (tmp_path / "file").write_text("not a folder")
    settings = Settings(model_dir=tmp_path / "file", device="cpu")
    assert run_job(job.id, store, settings, never) is JobState.FAILED
    assert "Not a directory" in (ended(store, job).error or "")


def test_a_canceled_job_publishes_nothing(store: JobStore, settings: Settings, job: Job) -> None:
    found: list[JobState | None] = []
    thread = threading.Thread(target=lambda: found.append(run_job(job.id, store, settings, never)))
    thread.start()
    while ended(store, job).epoch is None:
        pass
    store.cancel(job.id)
    thread.join()
    assert found == [JobState.CANCELED]
    assert ended(store, job).version is None
    assert not list(settings.model_dir.glob("vanilla/*"))


def test_a_run_whose_job_went_elsewhere_publishes_nothing(store: JobStore, settings: Settings, job: Job) -> None:
    found: list[JobState | None] = [JobState.FAILED]
    thread = threading.Thread(target=lambda: found.append(run_job(job.id, store, settings, never)))
    thread.start()
    while ended(store, job).epoch is None:
        pass
    store.leave(job.id, JobState.QUEUED)
    other = store.claim(job.id)
    thread.join()
    assert found[-1] is None
    assert not list(settings.model_dir.glob("vanilla/*"))
    assert ended(store, job) == other


def test_a_stopped_job_returns_to_the_queue_and_publishes_nothing(
    store: JobStore, settings: Settings, job: Job
) -> None:
    assert run_job(job.id, store, settings, lambda: True) is JobState.QUEUED
    assert ended(store, job).state is JobState.QUEUED
    assert not list(settings.model_dir.glob("vanilla/*"))
