"""The primary of a watched Redis dies: worker and API go on with the new one, and nothing is lost or doubled."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.processes import eventually
from tests.sentinels import Watched, running_watched
from tests.system.hosts import Hosts, running_hosts
from worker.connections import connect
from worker.jobs import JobState, JobStore

pytestmark = pytest.mark.timeout(600)

ANSWER_SECONDS = 3.0  # for any answer of the API while there is no primary
WAKE_SECONDS = 20.0  # until an idle worker takes a job from the new primary


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with running_watched(tmp_path) as watched:
        yield watched


@pytest.fixture
def hosts(tmp_path: Path, watched: Watched, off: str) -> Iterator[Hosts]:
    """Leases and pauses are as users have them."""
    with running_hosts(tmp_path, f"unmeasured,{off}") as hosts:
        hosts.url = watched.url
        hosts.redis = connect(watched.url)
        hosts.store = JobStore(hosts.redis)
        yield hosts


def train(api: httpx.Client, **request: object) -> str:
    """The id of a new job; empty if it was refused, with a reason and in time."""
    began = time.monotonic()
    answer = api.post("/train", json={"arch": "vanilla", "recipe": "book", **request})
    assert time.monotonic() - began < ANSWER_SECONDS
    if answer.status_code == 202:
        return str(answer.json()["id"])
    assert (answer.status_code, "training needs redis" in answer.json()["detail"]) == (503, True), answer.text
    return ""


def test_a_training_outlives_its_primary_and_the_next_job_runs(hosts: Hosts, watched: Watched) -> None:
    worker = hosts.worker()
    api = hosts.api()
    job_id = train(api, epochs=6)
    assert job_id
    hosts.wait_for_step(job_id, epoch=2)
    watched.kill_primary()
    next_id = eventually(lambda: train(api, epochs=1), "a new job is accepted")
    assert hosts.job(job_id).state is JobState.RUNNING  # else the test proves nothing
    job, following = hosts.wait_for_end(job_id), hosts.wait_for_end(next_id)
    assert (job.state, job.attempt, job.lost_leases) == (JobState.SUCCEEDED, 1, 0)
    assert (following.state, following.attempt) == (JobState.SUCCEEDED, 1)
    assert [hosts.kinds(each).count("ended") for each in (job_id, next_id)] == [1, 1]
    assert [len(hosts.versions(each)) for each in (job_id, next_id)] == [1, 1]
    assert len(api.get("/jobs").json()) == 2
    for secret in ("p@ss", "p%40ss", "other&pass", "other%26pass"):
        assert secret not in worker.output + "".join(log.read_text() for log in hosts.folder.glob("serve-*.log"))


@pytest.mark.protection("no end of silence")
def test_an_idle_worker_leaves_a_primary_that_is_silent(hosts: Hosts, watched: Watched) -> None:
    """Its host is gone without a word: no connection ends."""
    hosts.worker()
    api = hosts.api()
    assert watched.primary.process is not None
    watched.primary.process.send_signal(signal.SIGSTOP)
    job_id = eventually(lambda: train(api, epochs=1), "a new job is accepted")
    eventually(lambda: hosts.job(job_id).started_at, f"it is taken:\n{hosts.output}", WAKE_SECONDS)
    assert hosts.wait_for_end(job_id).state is JobState.SUCCEEDED
