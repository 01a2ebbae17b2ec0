"""A Redis that answers, but refuses: what the API says, what it still does, and what a worker says."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.processes import valkey
from tests.processes import Process, eventually, running_api
from tests.system.hosts import Hosts, running_hosts
from tests.system.test_worker import break_disk
from worker.broker import Publisher
from worker.connections import connect
from worker.jobs import JobState, JobStore, TrainRequest

pytestmark = pytest.mark.timeout(300)

RULE: dict[str, Any] = {"keys": ["digits:*"], "categories": ["+@all", "-@dangerous", "-@admin"]}  # docs/running.md

# What the answers say → what makes it so, what ends it.
REFUSALS: dict[str, tuple[Callable[[Any], object], Callable[[Any], object]]] = {
    "read-only replica": (lambda redis: redis.slaveof("127.0.0.1", 1), lambda redis: redis.slaveof()),
    "too few of its replicas": (
        lambda redis: redis.config_set("min-replicas-to-write", 1),
        lambda redis: redis.config_set("min-replicas-to-write", 0),
    ),
    "memory is full": (
        lambda redis: redis.config_set("maxmemory", 1),
        lambda redis: redis.config_set("maxmemory", 0),
    ),
    "writes are paused": (lambda redis: redis.client_pause(600_000, all=False), lambda redis: redis.client_unpause()),
}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with running_hosts(tmp_path_factory.mktemp("refusals"), "quick,few") as hosts:
        yield hosts


@pytest.fixture(scope="module")
def api(hosts: Hosts) -> httpx.Client:
    return hosts.api()


@pytest.mark.parametrize("said", REFUSALS)
def test_a_refusal_is_told(hosts: Hosts, api: httpx.Client, said: str) -> None:
    begin, end = REFUSALS[said]
    assert api.get("/readyz").json()["redis"] == "ok"
    begin(hosts.redis)
    try:
        answer = api.post("/train", json={"arch": "vanilla"})
        assert (answer.status_code, said in answer.json()["detail"]) == (503, True), answer.text
        ready = api.get("/readyz")
        assert ready.status_code == 200  # it draws
        assert (ready.json()["redis"], said in ready.json()["redis_problem"]) == ("refuses", True), ready.text
        assert api.post("/generate", params={"arch": "wgan", "n": 1}).status_code == 200
    finally:
        end(hosts.redis)
    eventually(lambda: api.get("/readyz").json()["redis"] == "ok", "it is over")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with running_hosts(tmp_path, "quick,few") as hosts:
        api = hosts.api()
        break_disk(hosts)
        answer = api.post("/train", json={"arch": "vanilla"})
        assert (answer.status_code, "cannot save to its disk" in answer.json()["detail"]) == (503, True), answer.text


def test_only_new_jobs_need_memory(hosts: Hosts, api: httpx.Client) -> None:
    """When the memory of Redis is full, a queued job can be canceled, and a running one ends."""
    waiting = api.post("/train", json={"arch": "vanilla"}).json()["id"]
    running = hosts.store.create(TrainRequest.model_validate({"arch": "vanilla"}))[0]
    claim = hosts.store.claim(running.id, "worker")
    assert claim is not None
    hosts.redis.config_set("maxmemory", 1)
    try:
        assert api.post("/train", json={"arch": "vanilla"}).status_code == 503
        assert api.delete(f"/jobs/{waiting}").json()["state"] == "canceled"
        assert hosts.store.report(claim, {"epoch": 1}, [(1, "epoch", "{}")]) == "held"
        assert hosts.store.finish(claim, JobState.SUCCEEDED, version=7)
    finally:
        hosts.redis.config_set("maxmemory", 0)
    assert api.get(f"/jobs/{running.id}").json()["version"] == 7


def test_a_cluster_is_refused(tmp_path: Path) -> None:
    server, url = valkey.make(tmp_path)
    server.stdin += f"cluster-enabled yes\ncluster-port {valkey.find_free_port()}\n"
    server.start()
    try:
        valkey.wait_until_ready(server, url)
        worker = Process(tmp_path, "worker", DIGITS_REDIS_URL=url, DIGITS_MODEL_DIR=str(tmp_path / "models"))
        assert worker.popen.wait(60) == 1
        assert "it is a cluster" in worker.output
        assert "Traceback" not in worker.output
        with running_api(tmp_path, DIGITS_REDIS_URL=url) as api:
            answer = api.post("/train", json={"arch": "vanilla"})
            assert (answer.status_code, "it is a cluster" in answer.json()["detail"]) == (503, True)
            assert api.get("/readyz").json()["redis"] == "refuses"
    finally:
        server.end()


@pytest.mark.parametrize(
    ("rule", "login", "said"),
    [
        (RULE, "other:wrong", "does not accept the user or password"),
        ({**RULE, "keys": ["other:*"]}, "other:p%40ss", "may not do what is needed"),
        ({**RULE, "categories": ["+@read"]}, "other:p%40ss", "may not do what is needed"),
    ],
)
def test_a_worker_that_may_not_says_so_and_ends(hosts: Hosts, rule: dict[str, Any], login: str, said: str) -> None:
    hosts.redis.acl_setuser("other", enabled=True, reset=True, passwords=["+p@ss"], **rule)
    url = f"redis://{login}@{hosts.url.partition('@')[2]}"
    worker = Process(hosts.folder, "worker", **{**hosts.environment, "DIGITS_REDIS_URL": url})
    assert worker.popen.wait(60) == 1
    assert said in worker.output
    assert "Traceback" not in worker.output
    for secret in ("p%40ss", "p@ss", "wrong"):
        assert secret not in worker.output


def test_a_user_with_the_documented_rule_can_do_all(tmp_path: Path) -> None:
    """With a database by query and a password of odd characters."""
    with running_hosts(tmp_path, "quick,few") as hosts:
        hosts.redis.acl_setuser("trainer", enabled=True, reset=True, passwords=["+a:/@#?%b ü"], **RULE)
        admin, where = hosts.redis, hosts.url.partition("@")[2].partition("/")[0]
        hosts.url = f"redis://trainer:a%3A%2F%40%23%3F%25b%20%C3%BC@{where}?db=3"
        api = hosts.api(DIGITS_LIMIT_IMAGES="100")  # which are counted in Redis, too
        hosts.worker()
        eventually(lambda: api.get("/readyz").json()["queue"] == {"queued": 0, "workers": 1}, "it is known")
        assert "r=95" in api.post("/generate?arch=wgan&n=5").headers["RateLimit"]
        assert any(connect(hosts.url).scan_iter("digits:limits*"))
        job_id = api.post("/train", json={"arch": "vanilla", "recipe": "book", "epochs": 1}).json()["id"]
        job = eventually(lambda: (j := api.get(f"/jobs/{job_id}").json())["ended_at"] and j, hosts.output)
        assert job["state"] == "succeeded", job
        events = api.get(f"/jobs/{job_id}/events").text
        assert "event: ended" in events
        waiting = api.post("/train", json={"arch": "vanilla"}).json()["id"]
        assert api.delete(f"/jobs/{waiting}").is_success
        assert admin.info("keyspace")["db3"]["keys"] > 0
        assert "db0" not in admin.info("keyspace")
        time.sleep(1.5)  # a pass of the reconcilers
        assert "permission" not in hosts.output.lower()


def test_workers_and_places_are_told(tmp_path: Path) -> None:
    with running_hosts(tmp_path, "quick,few") as hosts:
        api = hosts.api()
        first, second = (api.post("/train", json={"arch": "vanilla", "epochs": 900}).json() for _ in range(2))
        assert (first["queue_position"], first["workers"]) == (1, 0)
        assert api.get(f"/jobs/{second['id']}").json()["queue_position"] == 2
        assert api.get("/readyz").json()["queue"] == {"queued": 2, "workers": 0}
        worker = hosts.worker()
        eventually(lambda: api.get("/readyz").json()["queue"] == {"queued": 1, "workers": 1}, "one is taken")
        found = api.get(f"/jobs/{second['id']}").json()
        assert (found["queue_position"], found["workers"]) == (1, 1)
        assert worker.end() == 0
        assert api.get("/readyz").json()["queue"] == {"queued": 2, "workers": 0}
        hosts.worker()
        Publisher(hosts.url).wake(first["id"])
        eventually(lambda: api.get("/readyz").json()["queue"]["workers"] == 1, "another one is there")


def test_jobs_that_no_worker_takes_are_said_once(tmp_path: Path) -> None:
    with running_hosts(tmp_path, "quick") as hosts:
        hosts.store.create(TrainRequest.model_validate({"arch": "vanilla"}))
        environment = {**hosts.environment, "DIGITS_API_PROCESSES": "1", "DIGITS_PORT": str(valkey.find_free_port())}
        api = Process(tmp_path, "serve", module="tests.system.host", **environment)
        try:
            eventually(lambda: "no worker is alive" in api.output, "it is said")
            before = hosts.redis.get("digits:reconciled")
            eventually(lambda: hosts.redis.get("digits:reconciled") not in (before, None), "another pass")
            assert api.output.count("no worker is alive") == 1
        finally:
            api.end()


def test_a_worker_that_was_lost_no_longer_counts(hosts: Hosts) -> None:
    store = JobStore(hosts.redis)
    store.note_worker("gone:1")
    assert "gone:1" in str(hosts.redis.zrange("digits:workers", 0, -1))
    hosts.redis.zadd("digits:workers", {"gone:1": 1.0})  # long ago
    eventually(lambda: store.reconcile(0, at_once=True) is not None and store.count()[1] == 0, "it is forgotten")
