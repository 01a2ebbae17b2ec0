"""A claimed job while it runs, with a Valkey that answers or is away."""

import multiprocessing
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.processes import eventually, running_valkey
from worker import lease as leases
from worker.connections import connect
from worker.jobs import Claim, Job, JobState, JobStore, TrainRequest
from worker.lease import Lease, NotHeldError


def never() -> bool:
    return False


def claimed(store: JobStore) -> Claim:
    job, _ = store.create(TrainRequest.model_validate({"arch": "wgan"}))
    claim = store.claim(job.id, "worker")
    assert claim is not None
    return claim


def found(store: JobStore, claim: Claim) -> Job:
    job = store.get(claim.job.id)
    assert job is not None
    return job


def kinds(store: JobStore, claim: Claim) -> list[str]:
    events: Any = store._redis.xrange(f"digits:events:{claim.job.id}")
    return [fields["kind"] for _, fields in events]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "REPORT_SECONDS", 0.05)
    monkeypatch.setattr(leases, "RETRY_SECONDS", 0.05)


def test_the_lease_is_renewed_and_progress_reported_whatever_the_caller_does(store: JobStore) -> None:
    claim = claimed(store)
    with Lease(store, claim, never) as lease:
        lease.show({"epoch": 3})
        lease.tell("epoch", {"epoch": 2})
        store._redis.zadd("digits:leases", {claim.job.id: 0})
        eventually(lambda: store._redis.zscore("digits:leases", claim.job.id), "the lease is renewed")
        eventually(lambda: found(store, claim).epoch == 3, "progress is reported")
        assert not lease.should_stop()
        assert lease.finish(JobState.FAILED, error="broken")
    assert kinds(store, claim) == ["queued", "started", "epoch", "ended"]


def test_what_was_told_last_is_recorded_with_the_end(store: JobStore) -> None:
    claim = claimed(store)
    with Lease(store, claim, never) as lease:
        lease.show({"step": 9})
        lease.tell("metric", {"fid": 2.0})
        assert lease.finish(JobState.SUCCEEDED, version=2)
    assert (found(store, claim).step, found(store, claim).version) == (9, 2)
    assert kinds(store, claim)[-3:] == ["metric", "published", "ended"]


def test_a_cancellation_and_a_loss_are_noticed(store: JobStore) -> None:
    claim = claimed(store)
    with Lease(store, claim, never) as lease:
        store.cancel(claim.job.id)
        eventually(lease.should_stop, "the cancellation is noticed")
        assert not lease.start_publishing()
        lease.require()  # the job is still held
        store.lose(claim.job.id, "worker")
        with pytest.raises(NotHeldError):
            lease.require()
        assert not lease.finish(JobState.CANCELED)


def test_without_redis_the_run_goes_on_and_publishing_waits(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as (server, url):
        store = JobStore(connect(url))
        claim = claimed(store)
        with Lease(store, claim, never) as lease:
            assert server.process is not None
            server.process.kill()
            server.process.wait()
            lease.tell("epoch", {"epoch": 1})
            lease.require()
            assert not lease.should_stop()
            may: list[bool] = []
            waits = threading.Thread(target=lambda: may.append(lease.start_publishing()))
            waits.start()
            waits.join(0.5)
            assert waits.is_alive()
            server.start()
            waits.join()
            assert may == [True]
            assert lease.finish(JobState.SUCCEEDED, version=2)
        assert kinds(store, claim) == ["queued", "started", "epoch", "published", "ended"]


def test_without_redis_a_worker_that_ends_does_not_wait(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as (server, url):
        store = JobStore(connect(url))
        claim = claimed(store)
        with Lease(store, claim, lambda: True) as lease:
            assert server.process is not None
            server.process.kill()
            server.process.wait()
            assert not lease.start_publishing()
            assert not lease.give_back()


def test_a_run_that_publishes_is_not_stopped_by_a_cancellation(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "STUCK_SECONDS", 0.0)
    monkeypatch.setattr("os.kill", lambda *_: pytest.fail("killed"))
    claim = claimed(store)
    with Lease(store, claim, never) as lease:
        assert lease.start_publishing()
        store.cancel(claim.job.id)
        eventually(lease.should_stop, "the cancellation is noticed")
        store._redis.zadd("digits:leases", {claim.job.id: 0})
        eventually(lambda: store._redis.zscore("digits:leases", claim.job.id), "it goes on to be kept")
        assert lease.finish(JobState.SUCCEEDED, version=2)


def be_stuck(url: str, claim: Claim) -> None:
    leases.REPORT_SECONDS, leases.STUCK_SECONDS = 0.05, 0.5
    with Lease(JobStore(connect(url)), claim, never):
        threading.Event().wait()


def test_a_run_that_does_not_stop_is_killed(store: JobStore, valkey_url: str) -> None:
    claim = claimed(store)
    process = multiprocessing.get_context("spawn").Process(target=be_stuck, args=(valkey_url, claim))
    process.start()
    store.cancel(claim.job.id)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert found(store, claim).state is JobState.CANCELED
