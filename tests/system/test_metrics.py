"""What ``/metrics`` tells while a real worker trains, and after it was killed."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.processes import metrics_folder
from tests.app.scraped import Scrape
from tests.processes import eventually
from tests.system.conftest import Service, running_service


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("metrics"), "few,quick") as running:
        yield running


def scrape(service: Service) -> Scrape:
    return Scrape.of(service.api)


@pytest.mark.timeout(300)
def test_a_training_is_told_while_it_runs_and_counted_when_it_has_ended(shared: Service) -> None:
    eventually(lambda: scrape(shared).find("digits_workers") == [1], "the worker is told")
    before = scrape(shared)
    job_id = shared.train(arch="vanilla", recipe="book", epochs=10)
    last = scrape(shared)

    def is_learning() -> bool:
        nonlocal last
        last = scrape(shared)
        return bool(last.find("digits_training_loss", job_id=job_id))

    eventually(is_learning, "its losses are told")
    assert last.find("digits_jobs", state="running") == [1]
    assert last.find("digits_training_epochs", job_id=job_id, arch="vanilla") == [10]
    assert 1 <= last.sum("digits_training_epoch", job_id=job_id) <= 10
    assert last.sum("digits_training_images_per_second", job_id=job_id) > 100
    assert len(last.find("digits_training_remaining_seconds", job_id=job_id)) == 1
    assert len(last.find("digits_training_loss", job_id=job_id)) == 2
    shared.wait_for(job_id, "succeeded")
    after = scrape(shared)
    assert after.find("digits_training_epoch") == []
    assert after.find("digits_jobs", state="running") == [0]
    for name, count in {"accepted": 1, "attempts": 1, "lost_leases": 0}.items():
        assert after.sum(f"digits_jobs_{name}_total") - before.sum(f"digits_jobs_{name}_total") == count, name
    ended = [each.sum("digits_jobs_ended_total", state="succeeded") for each in (before, after)]
    assert ended[1] - ended[0] == 1
    eventually(lambda: scrape(shared).find("digits_versions_usable", arch="vanilla") == [3], "its version is told")


@pytest.mark.timeout(300)
def test_a_killed_training_is_counted_as_lost_and_as_resumed(shared: Service) -> None:
    before = scrape(shared)
    job_id = shared.train(arch="vanilla", recipe="book", epochs=30)
    eventually(lambda: shared.job(job_id)["saved_step"], "it has a state")
    shared.trainer().kill()
    eventually(lambda: shared.job(job_id)["resumes"], "it goes on")
    told = scrape(shared)
    for name, count in {"attempts": 2, "lost_leases": 1, "resumes": 1}.items():
        assert told.sum(f"digits_jobs_{name}_total") - before.sum(f"digits_jobs_{name}_total") == count, name
    shared.api.delete(f"/jobs/{job_id}").raise_for_status()
    shared.wait_for(job_id, "canceled")


@pytest.mark.timeout(300)
def test_the_totals_outlive_everything_but_the_data_of_redis(tmp_path: Path) -> None:
    with running_service(tmp_path, "few,quick") as first:
        first.wait_for(first.train(arch="vanilla", recipe="book", epochs=1), "succeeded")
        before = {name: scrape(first).sum(f"digits_jobs_{name}_total") for name in ("accepted", "ended", "attempts")}
        assert all(before.values())
        folder = find_folder(first)
    assert not folder.exists()
    with running_service(tmp_path, "few,quick") as second:
        assert {name: scrape(second).sum(f"digits_jobs_{name}_total") for name in before} == before
        api = second.part("api")
        assert api
        left = find_folder(second)
        api.kill()
        eventually(lambda: second.part("api") not in (None, api) and second.ready(), "the API runs again")
        assert scrape(second).sum("digits_api_processes") == 1
        assert not left.exists()  # the next one has removed it


def find_folder(service: Service) -> Path:
    """Where the API keeps its counts."""
    api = service.part("api")
    assert api
    held = {Path(file.path).parent for file in psutil.Process(api.pid).open_files() if file.path.endswith(".db")}
    (found,) = held
    assert found.name.startswith(metrics_folder._PREFIX)
    return found
