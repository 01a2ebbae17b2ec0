"""``digits jobs``, ``follow`` and ``cancel`` against a running API; the test is the worker."""

import json
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.processes.valkey import find_free_port
from tests.app.test_cli import digits
from tests.processes import eventually, running, running_api
from worker.jobs import Claim, JobState, JobStore, TrainRequest


def create(store: JobStore, arch: str = "vanilla") -> str:
    return store.create(TrainRequest.model_validate({"arch": arch, "recipe": "book", "epochs": 2}))[0].id


def claim(store: JobStore, job_id: str) -> Claim:
    found = store.claim(job_id, "worker")
    assert found is not None
    return found


def test_jobs_are_listed_in_80_columns_and_as_json(api: httpx.Client, store: JobStore, tmp_path: Path) -> None:
    first, second = create(store), create(store, "dcgan")
    store.report(claim(store, first), {"epoch": 1, "step": 5, "steps": 937})
    listed = digits(tmp_path, "jobs", "--url", str(api.base_url), COLUMNS="80")
    assert listed.returncode == 0, listed.stderr
    assert [line.split() for line in listed.stdout.splitlines()[1:]] == [
        [second, "queued", "1", "dcgan", "book", "0/2"],
        [first, "running", "vanilla", "book", "1/2"],
    ]
    assert max(map(len, listed.stdout.splitlines())) <= 80
    found = digits(tmp_path, "jobs", "--json", "--state", "running", DIGITS_URL=str(api.base_url))
    assert [job["id"] for job in json.loads(found.stdout)] == [first]


def test_follow_shows_a_job_until_it_has_ended(api: httpx.Client, store: JobStore, tmp_path: Path) -> None:
    job_id = create(store)
    environment = {"DIGITS_URL": str(api.base_url), "FORCE_COLOR": "1", "COLUMNS": "120"}
    with running(tmp_path, "follow", job_id, **environment) as process:
        eventually(lambda: "queued, place 1; no worker is alive" in process.output, "it waits")
        held = claim(store, job_id)
        losses = {"d_loss": 1.25, "g_loss": 0.75}
        store.report(
            held, {"epoch": 2, "step": 5, "steps": 937, "images_per_second": 2_000, "eta_seconds": 9, **losses}
        )
        for part in ("epoch 2/2", "2,000 images/s", "D 1.250", "G 0.750"):
            eventually(lambda part=part: part in process.output, part)  # type: ignore[misc]
        assert process.popen.poll() is None
        store.finish(held, JobState.SUCCEEDED, version=7)
        assert process.popen.wait(30) == 0
        assert "succeeded, made vanilla version 7" in process.output


def test_follow_tells_a_failure_and_its_status(api: httpx.Client, store: JobStore, tmp_path: Path) -> None:
    job_id = create(store)
    store.finish(claim(store, job_id), JobState.FAILED, error="no [space] left")
    result = digits(tmp_path, "follow", job_id, "--url", str(api.base_url))
    assert (result.returncode, "failed: no [space] left" in result.stdout) == (1, True)


def test_a_log_file_gets_a_line_per_epoch(api: httpx.Client, store: JobStore, tmp_path: Path) -> None:
    job_id = create(store)
    held = claim(store, job_id)
    with running(tmp_path, "follow", job_id, DIGITS_URL=str(api.base_url)) as process:
        for epoch in (1, 2):
            store.report(held, {"epoch": epoch, "step": 9, "steps": 9, "d_loss": 1, "g_loss": 1})
            eventually(lambda epoch=epoch: epoch == 1 or "epoch 1/2" in process.output, "a line")  # type: ignore[misc]
        store.finish(held, JobState.SUCCEEDED, version=7)
        assert process.popen.wait(30) == 0
        assert process.output.count("epoch 1/2") == process.output.count("epoch 2/2") == 1
        assert "HTTP" not in process.output


def test_follow_outlives_a_service_that_starts_again(store: JobStore, valkey_url: str, tmp_path: Path) -> None:
    job_id = create(store)
    port = str(find_free_port())
    environment = {"DIGITS_PORT": port, "DIGITS_REDIS_URL": valkey_url, "DIGITS_MODEL_DIR": str(tmp_path / "models")}
    with ExitStack() as first:
        first.enter_context(running_api(tmp_path, **environment))
        with running(tmp_path, "follow", job_id, **environment) as process:
            eventually(lambda: "place 1" in process.output, "it follows")
            first.close()
            eventually(lambda: "no answer" in process.output, "it waits")
            assert process.popen.poll() is None
            with running_api(tmp_path, **environment):
                store.finish(claim(store, job_id), JobState.SUCCEEDED, version=7)
                assert process.popen.wait(60) == 0


def test_a_job_that_went_back_to_the_queue_waits_again(api: httpx.Client, store: JobStore, tmp_path: Path) -> None:
    job_id = create(store)
    held = claim(store, job_id)
    store.report(held, {"epoch": 1, "step": 9, "steps": 9, "d_loss": 1, "g_loss": 1})
    with running(tmp_path, "follow", job_id, DIGITS_URL=str(api.base_url)) as process:
        store.give_back(held)
        eventually(lambda: "queued, place 1; no worker is alive" in process.output, "it waits")


def test_cancel_one_and_all_that_wait(api: httpx.Client, store: JobStore, tmp_path: Path) -> None:
    one, *others = (create(store) for _ in range(4))
    url = ("--url", str(api.base_url))
    assert "canceled" in digits(tmp_path, "cancel", one, *url).stdout
    held = claim(store, others[0])
    store.report(held, {"epoch": 2, "d_loss": 1})
    assert "finished epochs will be published" in digits(tmp_path, "cancel", others[0], "--keep", *url).stdout
    assert store.report(held) == "keep"
    begun = create(store)
    again = claim(store, begun)
    store.report(again, {"epoch": 2, "d_loss": 1})
    store.give_back(again)  # it waits, with a finished epoch
    told = digits(tmp_path, "cancel", "--all-queued", "--keep", *url).stdout
    assert "canceled 2 jobs" in told
    assert "1 more" in told
    states = [job.state for job in store.list_newest(9)]
    assert states == ["queued", "canceled", "canceled", "running", "canceled"]
    assert "canceled 1 jobs" in digits(tmp_path, "cancel", "--all-queued", *url).stdout


def test_more_jobs_than_a_page_has_are_canceled(api: httpx.Client, store: JobStore, tmp_path: Path) -> None:
    for _ in range(1_005):
        store.create(TrainRequest.model_validate({"arch": "vanilla"}), max_queued=2_000)
    assert "canceled 1005 jobs" in digits(tmp_path, "cancel", "--all-queued", "--url", str(api.base_url)).stdout
    assert store.count()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("follow", "none"), "there is no job none"),
        (("cancel", "none"), "there is no job none"),
        (("cancel",), "--all-queued"),
        (("cancel", "one", "--all-queued"), "--all-queued"),
        (("jobs", "--state", "lost"), "queued"),
        (("jobs", "--url", "http://127.0.0.1:1"), "no answer from http://127.0.0.1:1"),
        (("jobs", "--url", "nonsense"), "nonsense"),
    ],
)
def test_what_cannot_be_is_said(api: httpx.Client, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    result = digits(tmp_path, *arguments, DIGITS_URL=str(api.base_url))
    assert result.returncode in (1, 2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
