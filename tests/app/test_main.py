"""Every request, to any route, passes through every layer."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends
from starlette.middleware.gzip import GZipMiddleware

from app import main
from app.dependencies import get_resources
from app.engine import Engine
from app.routes.classes import DirectRoute
from app.routes.generate import post_generate
from app.settings import ApiSettings
from tests.app.layered import NAMES
from tests.processes import running_api
from worker.jobs import JobStore, TrainRequest
from worker.reconciler import Reconciler

PARAMETERS = {"{arch}": "wgan", "{version}": "1", "{job_id}": "00000000-0000-4000-8000-000000000000"}


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("layered")
    environment = {"DIGITS_REDIS_URL": valkey_url, "DIGITS_MODEL_DIR": str(folder)}
    with running_api(folder, module="tests.app.layered", **environment) as client:
        yield client


def list_calls(client: httpx.Client) -> list[tuple[str, str]]:
    """A method and a path for every operation, and some that are not operations."""
    calls = [
        *(("GET", path) for path in ("/", "/compare", "/training", "/watch?arch=wgan&version=1", "/morph")),
        ("GET", "/static/build/page.css"),
        ("GET", "/docs"),
        ("GET", "/docs/swagger-ui.css"),
        ("GET", "/openapi.json"),
        ("GET", "/nothing"),
        ("PUT", "/generate"),
    ]
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for name, value in PARAMETERS.items():
            path = path.replace(name, value)
        calls += [(method.upper(), path) for method in operations]
    return calls


def test_every_route_passes_through_every_layer(layered: httpx.Client) -> None:
    calls = list_calls(layered)
    assert len(calls) > 12
    assert not any("{" in path for _, path in calls)
    for method, path in calls:
        for query in ({}, {"arch": "wgan"}):  # for /generate: an error, and a picture
            answer = layered.request(method, path, params=query, json={} if method == "POST" else None)
            assert answer.headers["x-passed"].split(", ") == NAMES, (method, path, answer.status_code)


def test_a_layer_may_refuse_what_the_others_then_never_see(layered: httpx.Client) -> None:
    """Errors of layers get the same kind of answer as errors of routes."""
    for path in ("/generate?arch=wgan", "/train"):
        answer = layered.post(path, content=b" " * (64 * 1024 + 1))
        assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
        assert answer.headers["x-passed"].split(", ") == NAMES[: NAMES.index("body limit")]


def test_head_is_answered_wherever_get_is(layered: httpx.Client) -> None:
    """Over a real connection, which can be used again: nothing was sent as a body."""
    for method, path in list_calls(layered):
        if method == "GET":
            query: dict[str, Any] = {"arch": "wgan", "seed": 1} if path == "/generate" else {}
            got, head = layered.get(path, params=query), layered.head(path, params=query)
            assert (head.status_code, head.content) == (got.status_code, b""), path
            assert head.headers["content-type"] == got.headers["content-type"], path


def test_head_of_a_stream_ends(layered: httpx.Client, store: JobStore) -> None:
    job, _ = store.create(TrainRequest.model_validate({"arch": "wgan"}))
    answer = layered.head(f"/jobs/{job.id}/events", timeout=5)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/generate", "GET, HEAD, OPTIONS, POST"),
        ("/train", "OPTIONS, POST"),
        ("/jobs/1", "DELETE, GET, HEAD, OPTIONS"),
        ("/models", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
    ],
)
def test_a_path_says_what_it_allows(layered: httpx.Client, path: str, allowed: str) -> None:
    refused, asked = layered.put(path), layered.options(path)
    assert (refused.status_code, refused.headers["Allow"]) == (405, allowed)
    assert (asked.status_code, asked.headers["Allow"], asked.content) == (204, allowed, b"")


def test_a_path_that_is_none_allows_nothing(layered: httpx.Client) -> None:
    assert layered.options("/nothing").status_code == 404


def test_a_key_that_comes_twice_is_named(layered: httpx.Client) -> None:
    for method, path in list_calls(layered):
        answer = layered.request(method, path, params=[("arch", "bogus"), ("arch", "wgan")])
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "arch"), path


def test_what_would_stand_beside_the_layers_is_refused(model_dir: Path) -> None:
    app = main.create_app(ApiSettings(model_dir=model_dir, device="cpu"))
    with pytest.raises(TypeError, match="LAYERS"):
        app.add_middleware(GZipMiddleware)
    with pytest.raises(TypeError, match="_TRANSLATIONS"):
        app.add_exception_handler(ValueError, lambda *_: None)
    with pytest.raises(TypeError, match="guards are layers"):
        DirectRoute("/generate", post_generate, dependencies=[Depends(get_resources)])


def test_nothing_runs_before_it_is_started(model_dir: Path, valkey_url: str) -> None:
    before = set(threading.enumerate())
    main.create_app(ApiSettings.model_validate({"redis_url": valkey_url, "model_dir": model_dir, "device": "cpu"}))
    Engine(2, 0.0)
    Reconciler(valkey_url, model_dir)
    assert set(threading.enumerate()) == before
