"""The routes of jobs, with no worker: what is queued stays queued."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.processes import running_api
from worker.jobs import JobState, JobStore, TrainRequest
from worker.recipes import ArchName


def test_a_job_is_accepted_and_can_be_followed(api: httpx.Client, store: JobStore) -> None:
    answer = api.post("/train", json={"arch": "dcgan", "recipe": "book", "epochs": 2.0, "seed": 3})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    assert (job["state"], job["arch"], job["recipe"], job["epochs"], job["seed"]) == ("queued", "dcgan", "book", 2, 3)
    assert api.get(answer.headers["Location"]).json() == job
    assert api.get("/jobs").json() == [job]


def test_jobs_are_listed_newest_first(api: httpx.Client, store: JobStore) -> None:
    ids = [api.post("/train", json={"arch": "vanilla"}).json()["id"] for _ in range(3)]
    assert [job["id"] for job in api.get("/jobs").json()] == ids[::-1]
    assert [job["id"] for job in api.get("/jobs", params={"limit": 1}).json()] == ids[2:]


def test_a_key_gives_the_same_job_and_refuses_another_body(api: httpx.Client, store: JobStore) -> None:
    headers = {"Idempotency-Key": "once"}
    first, again = (api.post("/train", json={"arch": "wgan"}, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert len(api.get("/jobs").json()) == 1
    other = api.post("/train", json={"arch": "dcgan"}, headers=headers)
    assert other.status_code == 422
    assert other.json()["errors"][0]["field"] == "Idempotency-Key"


def test_a_queued_job_is_canceled_at_once_and_again(api: httpx.Client, store: JobStore) -> None:
    location = api.post("/train", json={"arch": "wgan"}).headers["Location"]
    for _ in range(2):
        answer = api.delete(location)
        assert (answer.status_code, answer.json()["state"]) == (200, "canceled")


def test_a_running_job_is_asked_to_stop(api: httpx.Client, store: JobStore) -> None:
    job_id = api.post("/train", json={"arch": "wgan"}).json()["id"]
    store.claim(job_id, "worker")
    answer = api.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["state"], answer.json()["cancel_requested"]) == (202, "running", True)


def test_to_keep_cannot_be_asked_for_later(api: httpx.Client, store: JobStore) -> None:
    job_id = api.post("/train", json={"arch": "wgan"}).json()["id"]
    claim = store.claim(job_id, "worker")
    assert claim is not None
    assert api.delete(f"/jobs/{job_id}").status_code == 202
    answer = api.delete(f"/jobs/{job_id}", params={"keep": True})
    assert (answer.status_code, "without keep" in answer.json()["detail"]) == (409, True)


def test_an_ended_job_cannot_be_canceled(api: httpx.Client, store: JobStore) -> None:
    job_id = api.post("/train", json={"arch": "wgan"}).json()["id"]
    claim = store.claim(job_id, "worker")
    assert claim is not None
    store.finish(claim, JobState.SUCCEEDED, version=2)
    answer = api.delete(f"/jobs/{job_id}")
    assert answer.status_code == 409
    assert "succeeded" in answer.json()["detail"]


def events_of(api: httpx.Client, job_id: str, **headers: str) -> list[dict[str, str]]:
    """The server-sent events of a job until their stream is closed, without comments."""
    events: list[dict[str, str]] = []
    with api.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        for block in "".join(answer.iter_text()).split("\n\n"):
            lines = [line.partition(": ") for line in block.splitlines() if not line.startswith(":")]
            if lines:
                events.append({name: value for name, _, value in lines})
    return events


def test_the_events_of_a_job_are_streamed_to_its_end_and_from_any_of_them(api: httpx.Client, store: JobStore) -> None:
    job_id = api.post("/train", json={"arch": "wgan"}).json()["id"]
    claim = store.claim(job_id, "worker")
    assert claim is not None
    ended = threading.Timer(1.0, store.finish, [claim, JobState.SUCCEEDED], {"version": 2})
    ended.start()  # while the stream is open
    events = events_of(api, job_id)
    assert [event["event"] for event in events] == ["queued", "started", "published", "ended"]
    assert json.loads(events[2]["data"]) == {"version": 2}
    assert events_of(api, job_id, **{"Last-Event-ID": events[1]["id"]}) == events[2:]
    answer = api.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": events[-1]["id"]})
    assert (answer.status_code, answer.content) == (204, b"")  # a browser does not reconnect


def test_bad_streams_are_refused(api: httpx.Client, store: JobStore) -> None:
    assert api.get("/jobs/none/events").status_code == 404
    job_id = api.post("/train", json={"arch": "wgan"}).json()["id"]
    answer = api.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": "x"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "last-event-id"


def read_all(api: httpx.Client, path: str, between: Callable[[], object] = lambda: None) -> list[str]:
    """The ids on all pages from this one on; ``between`` runs after each page."""
    ids = []
    while path:
        answer = api.get(path)
        assert answer.status_code == 200
        ids += [job["id"] for job in answer.json()]
        between()
        path = answer.links.get("next", {}).get("url", "")
    return ids


def test_all_jobs_can_be_listed_while_new_ones_come(api: httpx.Client, store: JobStore) -> None:
    request = TrainRequest(arch=ArchName("wgan"))
    ids = [store.create(request)[0].id for _ in range(1_000)]
    late: list[str] = []
    assert read_all(api, "/jobs?limit=77", lambda: late.append(store.create(request, None, 10_000)[0].id)) == ids[::-1]
    for job_id in ids[::3]:
        store.cancel(job_id)
    queued = [job_id for number, job_id in enumerate(ids) if number % 3]
    assert read_all(api, "/jobs?limit=100&state=canceled") == ids[::3][::-1]
    assert read_all(api, "/jobs?limit=1000&state=queued") == [*late[::-1], *queued[::-1]]
    assert read_all(api, "/jobs?state=running") == []


@pytest.mark.parametrize(
    "query", ["stat=queued", "state=waiting", "cursor=x", "cursor=1_", "cursor=%D9%A1_a", "limit=1001"]
)
def test_a_query_that_no_page_has_is_refused(api: httpx.Client, query: str) -> None:
    answer = api.get(f"/jobs?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, query.partition("=")[0])


def test_queued_jobs_are_bounded(tmp_path: Path, store: JobStore, valkey_url: str) -> None:
    environment = {"DIGITS_REDIS_URL": valkey_url, "DIGITS_MODEL_DIR": str(tmp_path), "DIGITS_MAX_QUEUED": "2"}
    with running_api(tmp_path, **environment) as client:
        first, second = (client.post("/train", json={"arch": "wgan"}, headers={"Idempotency-Key": key}) for key in "ab")
        assert (first.status_code, second.status_code) == (202, 202)
        third = client.post("/train", json={"arch": "wgan"}, headers={"Idempotency-Key": "c"})
        assert (third.status_code, third.headers["Retry-After"]) == (429, "60")
        again = client.post("/train", json={"arch": "wgan"}, headers={"Idempotency-Key": "a"})
        assert again.json() == first.json()
        client.delete(first.headers["Location"])
        assert client.post("/train", json={"arch": "wgan"}, headers={"Idempotency-Key": "c"}).status_code == 202
