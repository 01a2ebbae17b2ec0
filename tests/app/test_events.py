"""Many followers of jobs over one service, and over one feed."""

import json
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from app.events import AWAY_SECONDS, BATCH_BYTES, Feed
from app.processes import valkey
from app.processes.valkey import find_free_port
from tests.app.limited import FOLLOWERS as MAX_FOLLOWERS
from tests.app.test_protocol import connect
from tests.processes import Process, answers, eventually, running_api, running_valkey
from worker.connections import connect as connect_to_redis
from worker.jobs import MAX_EVENTS, MAX_SAMPLES, Claim, Event, JobState, JobStore, TrainRequest
from worker.recipes import ArchName

FOLLOWERS = 200
LAST_CHUNK = b"\r\n0\r\n\r\n"


def claimed(store: JobStore) -> Claim:
    job, _ = store.create(TrainRequest(arch=ArchName("wgan")))
    claim = store.claim(job.id, "test")
    assert claim is not None
    return claim


def tell(store: JobStore, claim: Claim, numbers: range, size: int = 10) -> None:
    store.report(claim, {}, [(number, "epoch", json.dumps({"text": "x" * size})) for number in numbers])


def tell_much(store: JobStore, claim: Claim) -> None:
    """More than the buffers of a connection take."""
    for first in range(1, 900, 50):
        tell(store, claim, range(first, first + 50), size=20_000)


def follow(stack: ExitStack, client: httpx.Client, job_id: str) -> socket.socket:
    """A follower that has sent its request and has read nothing."""
    connection = stack.enter_context(closing(connect(client)))
    connection.sendall(f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def read_rest(connection: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(LAST_CHUNK) and (received := connection.recv(1_000_000)):
        answer += received
    return answer


def read_kinds(connection: socket.socket, start: bytes = b"") -> list[bytes]:
    """The kinds of events until the end of an answer, which has to come with its last chunk."""
    answer = start + read_rest(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(LAST_CHUNK)
    return re.findall(rb"event: (\w+)\n", answer)


def test_all_followers_get_every_event(api: httpx.Client, store: JobStore) -> None:
    """Half of them from the beginning, half while events come; beside as many that do not read."""
    claim = claimed(store)
    tell(store, claim, range(1, 300), size=400)
    with ExitStack() as stack:
        early = [follow(stack, api, claim.job.id) for _ in range(FOLLOWERS // 2)]
        sleepers = [follow(stack, api, claim.job.id) for _ in range(FOLLOWERS)]
        tell(store, claim, range(300, 500), size=400)
        late = [follow(stack, api, claim.job.id) for _ in range(FOLLOWERS // 2)]
        assert api.get("/generate?arch=wgan").status_code == 200
        tell(store, claim, range(500, 600), size=400)
        store.finish(claim, JobState.SUCCEEDED, version=1)
        expected = [b"queued", b"started", *[b"epoch"] * 599, b"published", b"ended"]
        for follower in (*early, *late):
            assert read_kinds(follower) == expected
        assert len(sleepers) == FOLLOWERS


def test_followers_share_one_connection_to_redis(api: httpx.Client, store: JobStore, valkey_url: str) -> None:
    redis = connect_to_redis(valkey_url)
    before = len(redis.client_list())
    claims = [claimed(store) for _ in range(5)]
    with ExitStack() as stack:
        followers = [follow(stack, api, claim.job.id) for claim in claims for _ in range(20)]
        for follower in followers:
            assert follower.recv(1_000).startswith(b"HTTP/1.1 200")
        assert len(redis.client_list()) - before < len(claims)


def test_too_many_followers_are_told_to_come_again(tmp_path: Path, store: JobStore, valkey_url: str) -> None:
    path = f"/jobs/{claimed(store).job.id}/events"
    environment = {"DIGITS_REDIS_URL": valkey_url, "DIGITS_MODEL_DIR": str(tmp_path)}
    with running_api(tmp_path, module="tests.app.limited", **environment) as client, ExitStack() as stack:
        followers = [stack.enter_context(client.stream("GET", path)) for _ in range(MAX_FOLLOWERS)]
        assert [follower.status_code for follower in followers] == [200] * MAX_FOLLOWERS
        refused = client.get(path)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        followers[0].close()

        def follow_again() -> bool:
            with client.stream("GET", path) as answer:
                return answer.status_code == 200

        eventually(follow_again, "the place is free")


def test_a_follower_that_does_not_read_is_ended(tmp_path: Path, store: JobStore, valkey_url: str) -> None:
    claim = claimed(store)
    tell_much(store, claim)
    environment = {"DIGITS_REDIS_URL": valkey_url, "DIGITS_MODEL_DIR": str(tmp_path)}
    with running_api(tmp_path, module="tests.app.limited", **environment) as client, ExitStack() as stack:
        sleepers = [follow(stack, client, claim.job.id) for _ in range(MAX_FOLLOWERS)]
        for sleeper in sleepers:
            assert sleeper.recv(1_000).startswith(b"HTTP/1.1 200")

        def others_may_follow() -> bool:
            with client.stream("GET", f"/jobs/{claim.job.id}/events") as answer:
                return answer.status_code == 200

        assert not others_may_follow()
        eventually(others_may_follow, "their places are free", poll_seconds=0.5)
        with pytest.raises(ConnectionError):
            [read_rest(sleeper) for sleeper in sleepers]


def test_a_service_that_ends_completes_its_streams(tmp_path: Path, store: JobStore, valkey_url: str) -> None:
    """Also beside followers that do not read: those are cut, without a word."""
    claim = claimed(store)
    tell_much(store, claim)
    port = find_free_port()
    environment = {"DIGITS_REDIS_URL": valkey_url, "DIGITS_MODEL_DIR": str(tmp_path), "DIGITS_PORT": str(port)}
    process = Process(tmp_path, "serve", DIGITS_API_PROCESSES="1", **environment)
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
        ExitStack() as stack,
        ThreadPoolExecutor(20) as pool,
    ):
        eventually(lambda: answers(client), "the API answers")
        followers = [follow(stack, client, claim.job.id) for _ in range(40)]
        for follower in followers:
            assert follower.recv(1_000).startswith(b"HTTP/1.1 200")
        rests = [pool.submit(read_rest, follower) for follower in followers[:20]]
        process.end(signal.SIGTERM, seconds=10)
        for rest in rests:
            assert rest.result().endswith(LAST_CHUNK)
    assert not [line for line in process.output.splitlines() if "ERROR" in line or "Traceback" in line]


def test_followers_wait_while_redis_is_away(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as (server, url):
        claim = claimed(store := JobStore(connect_to_redis(url)))
        environment = {"DIGITS_REDIS_URL": url, "DIGITS_MODEL_DIR": str(tmp_path)}
        with running_api(tmp_path, **environment) as client, ExitStack() as stack:
            follower = follow(stack, client, claim.job.id)
            start = follower.recv(10_000)
            server.end()
            refused = client.get("/jobs/another/events")
            assert refused.status_code == 503
            time.sleep(3 * AWAY_SECONDS)
            server.start()
            valkey.wait_until_ready(server, url)
            tell(store, claim, range(1, 3))
            store.finish(claim, JobState.SUCCEEDED, version=1)
            assert read_kinds(follower, start)[-4:] == [b"epoch", b"epoch", b"published", b"ended"]
            (log,) = tmp_path.glob("serve-*.log")
            assert log.read_text().count("no events of jobs for now") == 1


def test_the_events_of_a_job_that_was_never_there(api: httpx.Client) -> None:
    assert api.get("/jobs/nothing/events").status_code == 404


def test_a_follower_from_after_the_last_event_is_let_go(api: httpx.Client, store: JobStore) -> None:
    claim = claimed(store)
    store.finish(claim, JobState.FAILED, error="broken")
    answer = api.get(f"/jobs/{claim.job.id}/events", headers={"Last-Event-ID": "9999999999999-0"})
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_damaged_job_hides_no_other(api: httpx.Client, store: JobStore, valkey_url: str) -> None:
    redis, damaged, whole = connect_to_redis(valkey_url), claimed(store), claimed(store)
    redis.xadd(f"digits:events:{damaged.job.id}", {"none": "of ours"})
    wrong_type = claimed(store).job.id
    redis.delete(f"digits:events:{wrong_type}")
    redis.set(f"digits:events:{wrong_type}", "text")
    with ExitStack() as stack:
        follow(stack, api, damaged.job.id)
        assert api.get(f"/jobs/{wrong_type}/events").status_code == 404
        store.finish(whole, JobState.SUCCEEDED, version=1)
        assert read_kinds(follow(stack, api, whole.job.id))[-1] == b"ended"


def test_a_follower_of_an_ended_job_without_events_is_let_go(
    api: httpx.Client, store: JobStore, valkey_url: str
) -> None:
    claim = claimed(store)
    store.finish(claim, JobState.FAILED, error="broken")
    connect_to_redis(valkey_url).delete(f"digits:events:{claim.job.id}")
    assert api.get(f"/jobs/{claim.job.id}/events").content == b""


def make_events(numbers: range) -> list[Event]:
    return [Event(f"1-{number}", "epoch", "{}") for number in numbers]


def test_a_feed_keeps_as_many_events_as_redis() -> None:
    feed = Feed()
    feed.add(make_events(range(1, MAX_EVENTS)))
    place = feed.find("1-2")
    feed.add(make_events(range(MAX_EVENTS, MAX_EVENTS + 3)))
    batch, behind = feed.take(place)
    assert batch.startswith(b"id: 1-3\nevent: epoch\ndata: {}\n\n")
    assert BATCH_BYTES <= len(batch) < BATCH_BYTES + 100
    assert feed.take(behind)[0].startswith(b"id: 1-" + str(batch.count(b"id: ") + 3).encode())
    feed.add(make_events(range(MAX_EVENTS + 3, MAX_EVENTS + 4)))
    with pytest.raises(LookupError):
        feed.take(place)
    assert feed.take(feed.find(feed.last))[0] == b""


def test_a_feed_keeps_as_many_pictures_as_redis() -> None:
    feed = Feed()
    for number in range(MAX_SAMPLES + 5):
        feed.add([Event(f"{number}-1", "sample", "{}"), Event(f"{number}-2", "epoch", "{}")])
    batch, place = feed.take(feed.find("0"))
    assert (batch.count(b"sample"), batch.count(b"epoch")) == (MAX_SAMPLES, MAX_SAMPLES + 5)
    assert batch.startswith(b"id: 0-2")
    assert place == feed.find(feed.last)
