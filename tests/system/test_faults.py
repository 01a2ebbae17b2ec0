"""A job is never lost, never doubled, never stuck: real processes, real signals, a real Valkey.

Each test names the protection that it proves. With ``--unprotected`` that protection is switched
off (``tests.system.host``), and the test must fail: ``make unprotected``.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from tests.processes import eventually
from tests.system.host import CHANGES
from tests.system.hosts import Hosts, kill, running_hosts, trainer, weights
from worker.broker import Publisher
from worker.jobs import MAX_LOST, JobState, TrainRequest

pytestmark = pytest.mark.timeout(900)  # what a test waits for has its own patience


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The SHA-256 of the weights that the job of these tests gives without any fault."""
    with running_hosts(tmp_path_factory.mktemp("undisturbed"), "quick") as hosts:
        hosts.worker()
        job_id = hosts.train(epochs=4)
        assert hosts.wait_for_end(job_id).state is JobState.SUCCEEDED
        return weights(hosts.versions(job_id)[0])


@pytest.mark.protection("no lease")
@pytest.mark.protection("no resume")
def test_a_killed_job_goes_on_elsewhere_to_the_same_weights(hosts: Hosts, undisturbed: str) -> None:
    """First the training process is killed, then the whole worker."""
    first = hosts.worker()
    job_id = hosts.train(epochs=4)
    hosts.wait_for_step(job_id, epoch=2)
    trainer(first).kill()
    eventually(lambda: hosts.job(job_id).resumes == 1, "it goes on in a new process")
    hosts.wait_for_step(job_id, epoch=3)
    kill(first)
    hosts.worker()
    job = hosts.wait_for_end(job_id)
    assert (job.state, job.attempt, job.lost_leases, job.resumes) == (JobState.SUCCEEDED, 3, 2, 2)
    (version,) = hosts.versions(job_id)
    assert weights(version) == undisturbed
    eventually(lambda: not list((hosts.model_dir / ".runs").iterdir()), "what was saved is gone")


@pytest.mark.protection("no token,no marker")
def test_a_trainer_that_slept_while_another_finished_publishes_nothing(hosts: Hosts) -> None:
    first = hosts.worker()
    job_id = hosts.train()
    hosts.wait_for_step(job_id)
    sleeper = trainer(first)
    sleeper.suspend()
    hosts.worker()
    job = hosts.wait_for_end(job_id)
    assert (job.state, job.attempt, job.lost_leases) == (JobState.SUCCEEDED, 2, 1)
    sleeper.resume()
    eventually(lambda: not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE, "the sleeper ends")
    assert len(hosts.versions(job_id)) == 1
    assert hosts.job(job_id) == job


def came_again(hosts: Hosts, job_id: str) -> bool:
    """Whether the message of a running job was delivered again, with or without an effect."""
    return "nothing to do" in hosts.output or hosts.kinds(job_id).count("started") > 1


@pytest.mark.changes("late")
@pytest.mark.changes("few")
@pytest.mark.protection("no claim")
def test_messages_that_are_delivered_again_start_no_second_run(hosts: Hosts) -> None:
    """Late acknowledgement with a visibility timeout of 5 s: the message comes again and again."""
    hosts.worker()
    hosts.worker()
    job_id = hosts.train(epochs=1000)
    hosts.wait_for_step(job_id, epoch=2)
    eventually(lambda: came_again(hosts, job_id), "the message comes again", progress=lambda: hosts.progress(job_id))
    hosts.store.cancel(job_id, keep=True)  # it has trained for long enough
    job = hosts.wait_for_end(job_id)
    assert (job.state, job.attempt, hosts.kinds(job_id).count("started")) == (JobState.CANCELED, 1, 1)
    assert len(hosts.versions(job_id)) == 1


@pytest.mark.protection("no limit")
@pytest.mark.changes("few")
@pytest.mark.changes("deadly")
def test_a_job_that_kills_its_process_fails_after_three_attempts_and_the_next_one_runs(hosts: Hosts) -> None:
    hosts.worker()
    job_id = hosts.train(epochs=1000)
    next_id = hosts.train(epochs=1)
    job = hosts.wait_for_end(job_id)
    assert (job.state, job.attempt, job.lost_in_a_row, job.resumes) == (JobState.FAILED, 3, 3, 2)
    assert job.error == "worker lost: 3 attempts in a row ended without a word or a new state"
    assert hosts.wait_for_end(next_id).state is JobState.SUCCEEDED


@pytest.mark.changes("few")
@pytest.mark.protection("no new count")
def test_a_job_that_comes_further_outlives_more_losses_than_one_that_does_not(hosts: Hosts) -> None:
    worker = hosts.worker()
    job_id = hosts.train(epochs=1000)
    while (losses := hosts.job(job_id).lost_leases) <= MAX_LOST:  # on a busy machine, a lease may also run out
        hosts.wait_for_step(job_id, epoch=(hosts.job(job_id).epoch or 1) + 1)
        trainer(worker).kill()
        eventually(lambda losses=losses: hosts.job(job_id).lost_leases > losses, "the loss is seen")  # type: ignore[misc]
    hosts.wait_for_step(job_id)
    hosts.store.cancel(job_id, keep=True)
    job = hosts.wait_for_end(job_id)
    assert (job.state, job.attempt) == (JobState.CANCELED, job.lost_leases + 1)
    assert job.resumes >= MAX_LOST  # a first lease that ran out leaves no state
    assert len(hosts.versions(job_id)) == 1


@pytest.mark.protection("no append-only file")
def test_a_job_outlives_five_deaths_of_valkey_and_a_new_one_is_taken(hosts: Hosts) -> None:
    hosts.worker()
    job_id = hosts.train(epochs=8)
    for _ in range(5):
        eventually(lambda: hosts.store.get(job_id) is not None, "the record is there", 5)
        hosts.wait_for_step(job_id)
        hosts.kill_valkey()
        time.sleep(0.5)  # it is away for this long
        hosts.start_valkey()
    job = hosts.wait_for_end(job_id)
    assert (job.state, job.attempt, hosts.kinds(job_id).count("ended")) == (JobState.SUCCEEDED, 1, 1)
    assert len(hosts.versions(job_id)) == 1
    new = hosts.train(epochs=1)
    eventually(lambda: hosts.job(new).started_at, "the new job is taken", 60)


@pytest.mark.changes("few")
@pytest.mark.protection("no wake")
def test_queued_jobs_run_though_the_broker_was_emptied(hosts: Hosts) -> None:
    ids = [hosts.train(epochs=1) for _ in range(2)]
    hosts.redis.delete(*hosts.redis.keys("digits:broker:*"))  # they share the database with the records
    hosts.worker()
    assert [hosts.wait_for_end(job_id, 60).state for job_id in ids] == [JobState.SUCCEEDED] * 2


@pytest.mark.changes("late")
@pytest.mark.changes("few")
@pytest.mark.protection("no claim")
def test_cut_connections_start_no_second_run(hosts: Hosts) -> None:
    """After that, Celery gets all messages again that it has not acknowledged."""
    hosts.worker()
    hosts.worker()
    job_id = hosts.train(epochs=1000)
    hosts.wait_for_step(job_id, epoch=2)
    for kind in ("normal", "pubsub"):
        hosts.redis.execute_command("CLIENT", "KILL", "TYPE", kind)  # type: ignore[no-untyped-call]
        time.sleep(1)
    eventually(lambda: came_again(hosts, job_id), "the message comes again", progress=lambda: hosts.progress(job_id))
    hosts.store.cancel(job_id, keep=True)  # it has trained for long enough
    job = hosts.wait_for_end(job_id)
    assert (job.state, job.attempt, hosts.kinds(job_id).count("started")) == (JobState.CANCELED, 1, 1)
    assert len(hosts.versions(job_id)) == 1


def test_a_job_is_canceled_without_a_worker_and_while_it_runs(hosts: Hosts) -> None:
    job_id = hosts.train()
    assert hosts.store.cancel(job_id)
    assert hosts.job(job_id).state is JobState.CANCELED
    hosts.worker()
    job_id = hosts.train(epochs=1000)
    hosts.wait_for_step(job_id)
    began = time.monotonic()
    hosts.store.cancel(job_id)
    eventually(lambda: hosts.job(job_id).state is JobState.CANCELED, "it is canceled", 10)
    assert time.monotonic() - began < 2
    assert hosts.versions(job_id) == []
    eventually(lambda: not list((hosts.model_dir / ".runs").iterdir()), "what was saved is gone")
    assert hosts.kinds(job_id)[-1] == "ended"


@pytest.mark.protection("no uncounting")
@pytest.mark.protection("no resume")
def test_a_worker_that_is_told_to_end_hands_its_job_over(hosts: Hosts, undisturbed: str) -> None:
    first = hosts.worker()
    job_id = hosts.train(epochs=4)
    hosts.wait_for_step(job_id, epoch=2)
    began = time.monotonic()
    assert first.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < 30
    job = hosts.job(job_id)
    assert (job.state, job.attempt, job.lost_leases) == (JobState.QUEUED, 0, 0)
    (state,) = sorted((hosts.model_dir / ".runs" / job_id).glob("state-*.pt"))[-1:]
    steps = int(state.stem.removeprefix("state-"))
    second = hosts.worker()
    job = hosts.wait_for_end(job_id)
    assert f"goes on at step {steps}" in second.output
    assert (job.state, job.attempt, job.resumes) == (JobState.SUCCEEDED, 1, 1)
    assert weights(hosts.versions(job_id)[0]) == undisturbed


@pytest.mark.changes("few")
@pytest.mark.protection("no timeouts")
def test_while_redis_is_frozen_training_says_so_in_time_and_pictures_are_drawn(hosts: Hosts) -> None:
    without_redis(hosts, lambda: hosts.signal_valkey(signal.SIGSTOP), lambda: hosts.signal_valkey(signal.SIGCONT))


@pytest.mark.changes("few")
def test_while_redis_refuses_training_says_so_in_time_and_pictures_are_drawn(hosts: Hosts) -> None:
    without_redis(hosts, hosts.kill_valkey, hosts.start_valkey)


def without_redis(hosts: Hosts, take_away: Callable[[], None], bring_back: Callable[[], None]) -> None:
    api = hosts.api()
    kept = api.post("/train", json={"arch": "vanilla", "recipe": "book", "epochs": 1}).json()["id"]

    def timed(method: str, path: str, **request: Any) -> tuple[int, float]:
        began = time.monotonic()
        status = api.request(method, path, **request).status_code
        return status, time.monotonic() - began

    def drawn() -> list[float]:
        answers = [timed("POST", "/generate", params={"arch": "vanilla", "n": 1}) for _ in range(50)]
        assert {status for status, _ in answers} == {200}
        return sorted(seconds for _, seconds in answers)

    usual = drawn()
    take_away()
    for method, path in (("POST", "/train"), ("GET", "/jobs"), ("DELETE", f"/jobs/{kept}")):
        status, seconds = timed(method, path, json={"arch": "wgan"} if method == "POST" else None)
        assert (status, seconds < 3) == (503, True)
    with ThreadPoolExecutor(100) as callers:  # more callers than threads that may wait for Redis
        crowd = [callers.submit(timed, "POST", "/train", json={"arch": "wgan"}) for _ in range(100)]
        beside = drawn()
        answers = [call.result() for call in crowd]
    assert {status for status, _ in answers} == {503}
    assert max(seconds for _, seconds in answers) < 4  # this includes time of the test itself
    assert beside[-2] < usual[-2] + 1  # no picture has waited for Redis
    assert "redis" in api.post("/train", json={"arch": "wgan"}).json()["detail"]
    assert api.get("/readyz").json()["redis"] == "away"
    bring_back()
    eventually(lambda: api.get("/readyz").json()["redis"] == "ok", "redis answers again")
    assert [job["id"] for job in api.get("/jobs").json()] == [kept]  # a request that got a 503 is not queued
    hosts.worker()
    assert hosts.wait_for_end(kept).state is JobState.SUCCEEDED


def find_child(worker: psutil.Process) -> psutil.Process | None:
    """The child of a worker that waits for a message, or handles it."""
    for process in worker.children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "spawn_main" in " ".join(process.cmdline()):
                return process
    return None


def test_a_worker_soon_has_a_new_process_for_the_next_job(hosts: Hosts) -> None:
    """Seen to fail without ``tasks.REPLACE_SECONDS``: most of these processes are then missed for up to 5 s."""
    worker = psutil.Process(hosts.worker().popen.pid)
    publisher = Publisher(hosts.url)

    for _ in range(4):
        old = eventually(lambda: find_child(worker), "there is a process")
        assert old is not None
        job, _ = hosts.store.create(TrainRequest.model_validate({"arch": "vanilla"}))
        hosts.redis.hset(f"digits:job:{job.id}", "seed", 2**70)  # so the process ends soon
        publisher.wake(job.id)
        eventually(lambda old=old: find_child(worker) != old, "it has ended", poll_seconds=0.01)  # type: ignore[misc]
        ended = time.monotonic()
        eventually(lambda: find_child(worker), "there is a new one", poll_seconds=0.01)
        assert time.monotonic() - ended < 1
    publisher.close()


def test_every_change_of_a_host_finds_what_it_changes() -> None:
    environment = {**os.environ, "CHANGES_FOR_TESTS": ",".join(CHANGES)}
    subprocess.run([sys.executable, "-c", "import tests.system.host"], env=environment, check=True)


@pytest.mark.changes("few")
def test_a_full_disk_fails_the_job_with_the_reason_and_leaves_nothing_half_written(hosts: Hosts) -> None:
    hosts.model_dir.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", hosts.model_dir], check=False).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        api = hosts.api()
        hosts.worker()
        job_id = hosts.train()
        job = hosts.wait_for_end(job_id)
        assert job.state is JobState.FAILED
        assert "No space left on device" in (job.error or "")
        assert [path for path in hosts.model_dir.rglob("*") if path.is_file()] == []
        assert api.post("/generate", params={"arch": "vanilla"}).status_code == 200
    finally:
        subprocess.run(["umount", "-l", hosts.model_dir], check=True)
