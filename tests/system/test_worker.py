"""A worker that has no job, while Redis or its queue are not as they should be."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import Process, eventually
from tests.system.hosts import Hosts, running_hosts
from tests.system.test_faults import find_child
from worker.broker import Publisher
from worker.jobs import JobState, TrainRequest

pytestmark = pytest.mark.timeout(300)

QUEUE = "digits:broker:digits"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """One worker, which outlives all tests of this file."""
    with running_hosts(tmp_path_factory.mktemp("idle"), "quick,few") as hosts:
        hosts.worker()
        yield hosts


def unblock(hosts: Hosts) -> None:
    for client in hosts.redis.client_list():
        if client["cmd"] == "brpop":
            hosts.redis.client_unblock(int(client["id"]), error=True)


def make_wrong_type(hosts: Hosts) -> None:
    hosts.redis.delete(QUEUE)
    hosts.redis.set(QUEUE, "no list")


def break_disk(hosts: Hosts) -> None:
    """The folder of the server has gone, so that it cannot save."""
    shutil.rmtree(hosts.folder / "valkey")
    hosts.redis.config_set("save", "3600 1")
    hosts.redis.bgsave()
    eventually(lambda: hosts.redis.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")


# What happens → what makes it happen, what ends it.
CAUSES: dict[str, tuple[Callable[[Hosts], object], Callable[[Hosts], object]]] = {
    "UNBLOCKED": (unblock, lambda hosts: None),
    "read only replica": (
        lambda hosts: hosts.redis.slaveof("127.0.0.1", 1),
        lambda hosts: hosts.redis.slaveof(),
    ),
    "Not enough good replicas": (
        lambda hosts: hosts.redis.config_set("min-replicas-to-write", 1),
        lambda hosts: hosts.redis.config_set("min-replicas-to-write", 0),
    ),
    "unable to persist": (break_disk, lambda hosts: hosts.redis.config_set("stop-writes-on-bgsave-error", "no")),
    "wrong kind of value": (make_wrong_type, lambda hosts: hosts.redis.delete(QUEUE)),
    "'not json'": (lambda hosts: hosts.redis.lpush(QUEUE, "not json"), lambda hosts: None),
    "properties": (lambda hosts: hosts.redis.lpush(QUEUE, '{"a": 1}'), lambda hosts: None),
    "list indices": (lambda hosts: hosts.redis.lpush(QUEUE, "[1]"), lambda hosts: None),
}


@pytest.mark.parametrize("reason", CAUSES)
def test_an_idle_worker_outlives_what_redis_answers_and_says_it_once(hosts: Hosts, reason: str) -> None:
    (worker,) = hosts.workers
    begin, end = CAUSES[reason]
    before = len(worker.output)
    begin(hosts)
    said = eventually(lambda: worker.popen.poll() is not None or reason in worker.output[before:], reason)
    assert said
    time.sleep(1)  # long enough for more tries
    end(hosts)
    assert worker.popen.poll() is None
    lines = [line for line in worker.output[before:].splitlines() if reason in line and "celery" in line]
    assert len(lines) == len(set(re.sub(r"^\S+ \S+ ", "", line) for line in lines))
    assert "Traceback" not in worker.output
    publisher = Publisher(hosts.url)
    publisher.wake("unknown")
    eventually(lambda: publisher.count_waiting() == 0, f"it takes messages again:\n{hosts.output}")
    publisher.close()


def test_wake_ups_of_canceled_jobs_cost_no_process(hosts: Hosts) -> None:
    """Each took a child process, and with it some 5 s."""
    worker = psutil.Process(hosts.workers[0].popen.pid)
    before = eventually(lambda: find_child(worker), "there is a process")
    publisher = Publisher(hosts.url)
    for _ in range(100):
        job, _ = hosts.store.create(TrainRequest.model_validate({"arch": "vanilla"}))
        hosts.store.cancel(job.id)
        publisher.wake(job.id)
    publisher.wake("unknown")
    began = time.monotonic()
    eventually(lambda: publisher.count_waiting() == 0, "all are taken")
    assert time.monotonic() - began < 10
    assert find_child(worker) == before
    publisher.close()
    job_id = hosts.train(epochs=1)
    assert hosts.wait_for_end(job_id).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("field", "said"), [("recipe", "vanilla of recipe future"), ("arch", "future of recipe tuned")]
)
def test_a_job_of_another_release_waits_for_a_worker_that_knows_it(hosts: Hosts, field: str, said: str) -> None:
    job, _ = hosts.store.create(TrainRequest.model_validate({"arch": "vanilla"}))
    hosts.redis.hset(f"digits:job:{job.id}", field, "future")
    publisher = Publisher(hosts.url)
    publisher.wake(job.id)
    eventually(lambda: f"{said} is unknown here" in hosts.output, "it says what is unknown")
    assert hosts.job(job.id).state is JobState.QUEUED
    hosts.store.cancel(job.id)
    publisher.close()


def test_a_worker_that_starts_against_a_replica_waits(tmp_path: Path) -> None:
    with running_hosts(tmp_path, "quick,few") as hosts:
        hosts.redis.slaveof("127.0.0.1", 1)
        worker = Process(tmp_path, "worker", module="tests.system.host", **hosts.environment)
        hosts.workers.append(worker)
        eventually(lambda: "read only replica" in worker.output, "it says why")
        time.sleep(2)
        assert worker.popen.poll() is None
        hosts.redis.slaveof()
        job_id = hosts.train(epochs=1)
        assert hosts.wait_for_end(job_id).state is JobState.SUCCEEDED
        assert worker.end() == 0
