"""What a client may draw, per key or address: counted in a real Valkey, and without one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.keys import Scope, add_key
from tests.app.test_cli import digits
from tests.processes import eventually, running_api, running_valkey
from worker.jobs import JobState, JobStore, Standing, TrainRequest

DIGIT = "/generate?arch=wgan&n=1"


@pytest.fixture(params=["shared", "alone"])
def limited(request: pytest.FixtureRequest, tmp_path: Path, valkey_url: str, store: JobStore) -> Iterator[httpx.Client]:
    """At most 600 images a minute, of two processes that share a Valkey, or of one without any."""
    shared = {"DIGITS_REDIS_URL": valkey_url, "DIGITS_API_PROCESSES": "2"} if request.param == "shared" else {}
    with running_api(tmp_path, DIGITS_MODEL_DIR=str(tmp_path), DIGITS_LIMIT_IMAGES="600", **shared) as client:
        yield client


def read_rest(answer: httpx.Response) -> dict[str, int]:
    """What is left, by limit."""
    return {name: int(left) for name, left in re.findall(r'"(\w+)";r=(\d+);t=\d+', answer.headers["RateLimit"])}


def test_images_are_counted_whatever_draws_them(limited: httpx.Client) -> None:
    address = {"X-Forwarded-For": "192.0.2.7"}  # whom nobody trusts
    first = limited.post("/generate?arch=wgan&n=200")
    assert first.headers["RateLimit-Policy"] == '"images";q=600;w=60'
    assert read_rest(first) == {"images": 400}
    compared = limited.get("/compare.png?seeds=0-3")  # which takes images three times
    assert read_rest(compared) == {"images": 400 - 3 * 4}
    assert compared.headers["RateLimit"].count("images") == 1
    assert read_rest(limited.get("/morph.png?arch=wgan&from=1&to=2&frames=8")) == {"images": 380}
    assert limited.get("/models").status_code == 200
    refused = limited.post("/generate?arch=wgan&n=381", headers=address)
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert read_rest(refused) == {"images": 380}
    assert "more than 600 images a minute" in refused.json()["detail"]
    assert read_rest(limited.post("/generate?arch=wgan&text=1234")) == {"images": 376}
    data = limited.post("/datasets", json={"arch": "wgan", "per_class": 1})
    assert read_rest(data) == {"images": 366}
    assert limited.post("/generate?arch=wgan&n=366").status_code == 200
    assert limited.post(DIGIT).status_code == 429


def test_what_no_client_may_ever_have_is_no_matter_of_time(limited: httpx.Client) -> None:
    for answer, field in (
        (limited.post("/generate?arch=wgan&n=601"), "n"),
        (limited.post("/datasets", json={"arch": "wgan", "per_class": 61}), "per_class"),
    ):
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
        assert answer.json()["errors"][0]["bound"] == {"images": 600}


def test_what_is_not_drawn_is_not_counted(limited: httpx.Client) -> None:
    tag = limited.get("/generate?arch=wgan&n=9&seed=1").headers["ETag"]
    cached = limited.get("/generate?arch=wgan&n=9&seed=1", headers={"If-None-Match": tag})
    assert cached.status_code == 304
    assert limited.head("/generate?arch=wgan&n=9").status_code == 200
    assert limited.head("/generate?arch=wgan&n=9&digit=3").status_code == 200  # its version has an index
    assert limited.post("/generate?arch=wgan&n=0").status_code == 422
    assert read_rest(limited.post(DIGIT)) == {"images": 590}


def test_each_key_has_its_own_limit(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    one, other = (add_key(file, name, frozenset([Scope.ADMIN])) for name in ("one", "other"))
    environment = {"DIGITS_KEYS_FILE": str(file), "DIGITS_MODEL_DIR": str(tmp_path), "DIGITS_LIMIT_IMAGES": "16"}
    with running_api(tmp_path, **environment) as client:
        for _ in range(2):
            for key in (one, other):
                left = client.post("/generate?arch=wgan&n=8", headers={"X-API-Key": key})
                assert left.status_code == 200
        assert client.post(DIGIT, headers={"X-API-Key": one}).status_code == 429
        assert client.post(DIGIT).status_code == 401


def test_requests_are_counted_before_they_are_understood(tmp_path: Path) -> None:
    with running_api(tmp_path, DIGITS_MODEL_DIR=str(tmp_path), DIGITS_LIMIT_REQUESTS="3") as client:
        answers = [client.get(path) for path in 6 * ("/generate?arch=bogus", "/compare.png?seeds=x")]
        assert {answer.status_code for answer in answers} == {422, 429}
        assert {"requests"} == {name for answer in answers for name in read_rest(answer)}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["RateLimit-Policy"] == '"requests";q=3;w=1'
        assert refused.headers["Retry-After"] == "1"
        assert [client.get("/livez").status_code for _ in range(9)] == [200] * 9
        eventually(lambda: client.post(DIGIT).status_code == 200, "a second later there is more", 10)


def test_pictures_of_jobs_are_counted_and_jobs_are_not(tmp_path: Path, valkey_url: str, store: JobStore) -> None:
    environment = {"DIGITS_MODEL_DIR": str(tmp_path), "DIGITS_REDIS_URL": valkey_url, "DIGITS_LIMIT_REQUESTS": "9"}
    with running_api(tmp_path, **environment) as client:
        for path in ("/jobs/x/samples.png", "/jobs/x/curves.svg", "/models", "/", "/watch?job=x"):
            assert "requests" in read_rest(client.get(path)), path
        for path in ("/jobs", "/jobs/x", "/training", "/livez", "/nothing"):
            assert "RateLimit" not in client.get(path).headers, path


def test_a_client_has_so_many_jobs_at_a_time(tmp_path: Path, valkey_url: str, store: JobStore) -> None:
    file = tmp_path / "keys.json"
    one, other = (add_key(file, name, frozenset([Scope.TRAIN])) for name in ("one", "other"))
    environment = {"DIGITS_KEYS_FILE": str(file), "DIGITS_MODEL_DIR": str(tmp_path), "DIGITS_REDIS_URL": valkey_url}
    with running_api(tmp_path, DIGITS_LIMIT_JOBS="2", **environment) as client:

        def train(key: str, name: str) -> httpx.Response:
            headers = {"X-API-Key": key, "Idempotency-Key": name}
            return client.post("/train", json={"arch": "wgan"}, headers=headers)

        first = train(one, "a").json()["id"]
        claim = store.claim(first, "worker")
        assert claim
        assert train(one, "b").status_code == 202
        refused = train(one, "c")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
        assert refused.headers["RateLimit-Policy"] == '"jobs";q=2'
        assert refused.headers["RateLimit"] == '"jobs";r=0'
        assert "2 of your jobs are queued or running" in refused.json()["detail"]
        assert train(one, "a").json()["id"] == first  # which is no new one
        theirs = train(other, "a")
        assert theirs.status_code == 202
        assert theirs.json()["id"] != first  # the same name, of another client
        store.finish(claim, JobState.SUCCEEDED)
        assert train(one, "c").status_code == 202
        assert "owner" not in theirs.json()


def test_a_key_cancels_its_own_jobs_and_admin_all(tmp_path: Path, valkey_url: str, store: JobStore) -> None:
    file = tmp_path / "keys.json"
    scopes = {"one": Scope.TRAIN, "other": Scope.TRAIN, "admin": Scope.ADMIN}
    keys = {name: add_key(file, name, frozenset([scope])) for name, scope in scopes.items()}
    environment = {"DIGITS_KEYS_FILE": str(file), "DIGITS_MODEL_DIR": str(tmp_path), "DIGITS_REDIS_URL": valkey_url}
    earlier, _ = store.create(TrainRequest.model_validate({"arch": "wgan"}))  # before there were keys
    with running_api(tmp_path, **environment) as client:

        def call(method: str, path: str, name: str, **options: Any) -> httpx.Response:
            return client.request(method, path, headers={"X-API-Key": keys[name]}, **options)

        first, second = (call("POST", "/train", "one", json={"arch": "wgan"}).json()["id"] for _ in range(2))
        for job_id in (first, earlier.id):
            refused = call("DELETE", f"/jobs/{job_id}", "other")
            assert refused.status_code == 403
            assert "this key has not queued the job" in refused.json()["detail"]
            assert call("GET", f"/jobs/{job_id}", "other").json()["state"] == "queued"
        claim = store.claim(second, "worker")
        assert claim
        assert call("DELETE", f"/jobs/{second}?keep=true", "other").status_code == 403
        assert store.report(claim) is Standing.HELD
        store.give_back(claim)
        url = ("--all-queued", "--url", str(client.base_url))
        said = digits(tmp_path, "cancel", *url, DIGITS_KEY=keys["other"]).stdout
        assert "canceled 0 jobs" in said
        assert "3 others stay" in said
        assert call("DELETE", f"/jobs/{first}", "one").json()["state"] == "canceled"
        assert call("DELETE", f"/jobs/{first}", "other").status_code == 403
        assert call("DELETE", "/jobs/nothing", "other").status_code == 404
        for job_id in (second, earlier.id):
            assert call("DELETE", f"/jobs/{job_id}", "admin").json()["state"] == "canceled"


def test_without_redis_each_process_counts_on_its_own(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as (server, url):
        environment = {"DIGITS_MODEL_DIR": str(tmp_path), "DIGITS_REDIS_URL": url, "DIGITS_LIMIT_IMAGES": "100"}
        with running_api(tmp_path, **environment) as client:
            assert read_rest(client.post("/generate?arch=wgan&n=90")) == {"images": 10}
            assert server.process
            server.process.kill()
            server.process.wait()
            assert read_rest(client.post("/generate?arch=wgan&n=90")) == {"images": 10}
            assert client.post("/generate?arch=wgan&n=90").status_code == 429
