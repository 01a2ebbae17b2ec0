"""What bad input gets: a problem that names the field and the bound, and never a 500."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import main
from app.middleware.problems import Problems
from app.settings import ApiSettings
from models.seeds import MAX_SEED
from tests.versions import SHIPPED
from worker.jobs import MAX_EPOCHS

JSON = {"Content-Type": "application/json"}


def problem(answer: httpx.Response, status: int, field: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    if field is None:
        return body
    (error,) = body["errors"]
    assert error["field"] == field
    assert error["detail"]
    found: dict[str, Any] = error
    return found


@pytest.mark.parametrize(
    ("query", "field", "bound"),
    [
        ({"arch": "biggan"}, "arch", {"expected": "'vanilla', 'dcgan' or 'wgan'"}),
        ({"n": 0}, "n", {"ge": 1}),
        ({"n": -1}, "n", {"ge": 1}),
        ({"n": 1025}, "n", {"le": 1024}),
        ({"n": "9" * 5000}, "n", None),
        ({"n": "abc"}, "n", None),
        ({"n": 1.5}, "n", None),
        ({"seed": -1}, "seed", {"ge": 0}),
        ({"seed": MAX_SEED + 1}, "seed", {"le": MAX_SEED}),
        ({"seed": 10**400}, "seed", {"le": MAX_SEED}),
        ({"seed": MAX_SEED, "n": 2}, "seed", {"le": MAX_SEED - 1}),
        ({"seed": MAX_SEED - 1022, "n": 1024}, "seed", {"le": MAX_SEED - 1023}),
        ({"scale": 0}, "scale", {"ge": 1}),
        ({"scale": 9}, "scale", {"le": 8}),
        ({"columns": 0}, "columns", {"ge": 1}),
        ({"columns": 1025}, "columns", {"le": 1024}),
        ({"colour": "red"}, "colour", None),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_bad_query_names_field_and_bound(
    api: httpx.Client, method: str, query: dict[str, Any], field: str, bound: dict[str, Any] | None
) -> None:
    error = problem(api.request(method, "/generate", params={"arch": "wgan", **query}), 422, field)
    assert error.get("bound") == bound


def test_a_missing_architecture_is_named(api: httpx.Client) -> None:
    problem(api.post("/generate"), 422, "arch")


def test_everything_that_is_wrong_is_named(api: httpx.Client) -> None:
    body = problem(api.post("/generate", params={"arch": "x", "n": 0}), 422)
    assert [error["field"] for error in body["errors"]] == ["arch", "n"]


@pytest.mark.parametrize("version", ["999", "0", "-1", "x", "", "1e3", "9" * 5000, "²"])
def test_an_unknown_version_lists_those_there_are(api: httpx.Client, version: str) -> None:
    error = problem(api.post("/generate", params={"arch": "wgan", "version": version}), 404, "version")
    assert error["bound"] == {"usable": SHIPPED["wgan"]}


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "nonsense", "application/zip;q=0"])
def test_a_format_that_cannot_be_made(api: httpx.Client, accept: str) -> None:
    error = problem(api.post("/generate", params={"arch": "wgan"}, headers={"Accept": accept}), 406, "Accept")
    assert "image/png" in error["bound"]


@pytest.mark.parametrize(
    ("query", "bound"), [({"n": 1024, "columns": 1024}, {"le": 16383}), ({"n": 1024, "scale": 8}, {"le": 2**22})]
)
def test_a_picture_that_webp_cannot_hold(api: httpx.Client, query: dict[str, Any], bound: dict[str, int]) -> None:
    answer = api.post("/generate", params={"arch": "vanilla", **query}, headers={"Accept": "image/webp"})
    assert problem(answer, 422, "scale")["bound"] == bound


@pytest.mark.parametrize(
    "path", ["/models/biggan", "/models/wgan/99", "/models/biggan/1", "/models/wgan/x", "/nothing"]
)
def test_unknown_paths(api: httpx.Client, path: str) -> None:
    problem(api.get(path), 404)


def test_a_method_that_is_not_allowed(api: httpx.Client) -> None:
    problem(api.put("/train"), 405)


@pytest.mark.parametrize(
    ("body", "field", "bound"),
    [
        ({"arch": "biggan"}, "arch", {"expected": "'vanilla', 'dcgan' or 'wgan'"}),
        ({"arch": 7}, "arch", {"expected": "'vanilla', 'dcgan' or 'wgan'"}),
        ({"recipe": "secret"}, "recipe", {"expected": "'book', 'tuned' or 'logistic'"}),
        ({"arch": "vanilla", "recipe": "logistic"}, "recipe", {"expected": "book or tuned"}),
        ({"epochs": 0}, "epochs", {"ge": 1}),
        ({"epochs": MAX_EPOCHS + 1}, "epochs", {"le": MAX_EPOCHS}),
        ({"epochs": "many"}, "epochs", None),
        ({"epochs": 1.5}, "epochs", None),
        ({"epochs": True}, "epochs", None),
        ({"measure_every": 0}, "measure_every", {"ge": 1}),
        ({"measure_every": MAX_EPOCHS + 1}, "measure_every", {"le": MAX_EPOCHS}),
        ({"measure_every": 2.5}, "measure_every", None),
        ({"seed": "7"}, "seed", None),
        ({"seed": -1}, "seed", {"ge": 0}),
        ({"seed": 2**64}, "seed", {"le": MAX_SEED}),
        ({"epoch": 3}, "epoch", None),
    ],
)
def test_a_bad_job_names_field_and_bound(
    api: httpx.Client, body: dict[str, Any], field: str, bound: dict[str, Any] | None
) -> None:
    before = api.get("/jobs").json()
    error = problem(api.post("/train", json={"arch": "wgan", **body}), 422, field)
    assert error.get("bound") == bound
    assert api.get("/jobs").json() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"wgan"', b"null", b"\xff", b'{"arch": "wgan", "seed": NaN}'])
def test_a_body_that_is_no_job(api: httpx.Client, content: bytes) -> None:
    body = problem(api.post("/train", content=content, headers=JSON), 422)
    assert body["errors"]


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b'{"arch": ', "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[" * 10_000 + b"]" * 10_000, "the body is nested too deeply"),
        (b'{"arch": "wgan", "seed": ' + b"9" * 5_000 + b"}", "a number of the body has too many digits"),
    ],
    ids=["cut", "no text", "deep", "long"],
)
def test_a_body_that_cannot_be_read_says_why(api: httpx.Client, content: bytes, detail: str) -> None:
    assert problem(api.post("/train", content=content, headers=JSON), 422, "body")["detail"] == detail


@pytest.mark.parametrize("coding", ["br", "gzip", "identity, GZIP"])
def test_a_packed_body_is_refused(api: httpx.Client, coding: str) -> None:
    headers = {**JSON, "Content-Encoding": coding}
    error = problem(api.post("/train", content=b'{"arch": "wgan"}', headers=headers), 415, "Content-Encoding")
    assert error["bound"] == "identity"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_wrong_media_type(api: httpx.Client, media_type: str | None) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    error = problem(api.post("/train", content=b'{"arch": "wgan"}', headers=headers), 415, "Content-Type")
    assert error["bound"] == "application/json"


def in_pieces() -> Iterator[bytes]:
    for _ in range(9):
        yield b" " * 8 * 1024


@pytest.mark.parametrize("content", [b" " * (64 * 1024 + 1), in_pieces], ids=["announced", "in pieces"])
def test_a_body_over_64_kib(api: httpx.Client, content: Any) -> None:
    content = content() if callable(content) else content
    error = problem(api.post("/train", content=content, headers=JSON), 413, "body")
    assert error["bound"] == {"le": 65536}


def test_a_body_of_64_kib_is_read(api: httpx.Client) -> None:
    filler = b'{"arch": "biggan"' + b" " * (64 * 1024 - 18) + b"}"
    assert len(filler) == 64 * 1024
    problem(api.post("/train", content=filler, headers=JSON), 422, "arch")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("job_id", ["00000000-0000-4000-8000-000000000000", "x", "%00", "a" * 5000])
def test_an_unknown_job(api: httpx.Client, method: str, job_id: str) -> None:
    problem(api.request(method, f"/jobs/{job_id}"), 404, "job_id")


@pytest.mark.parametrize("limit", ["0", "1001", "x"])
def test_a_bad_limit(api: httpx.Client, limit: str) -> None:
    problem(api.get("/jobs", params={"limit": limit}), 422, "limit")


def test_a_key_that_is_too_long(api: httpx.Client) -> None:
    headers = {"Idempotency-Key": "k" * 201}
    problem(api.post("/train", json={"arch": "wgan"}, headers=headers), 422, "idempotency-key")


def ask(app: ASGIApp, receive: Receive, method: str = "POST", path: str = "/train") -> list[Message]:
    """The messages that answer one request, in this process."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "query_string": b"",
        "headers": headers, "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    asyncio.run(cast("Coroutine[Any, Any, None]", app(scope, receive, send)))
    return sent


async def go_away() -> Message:
    return {"type": "http.disconnect"}


@pytest.fixture
def app(model_dir: Path) -> main.Application:
    return main.create_app(ApiSettings(model_dir=model_dir, device="cpu"))


def test_a_client_that_goes_while_it_sends_its_body_is_no_error(
    app: main.Application, caplog: pytest.LogCaptureFixture
) -> None:
    ask(app, go_away)
    assert caplog.text == ""


def test_an_unexpected_error_is_a_500_and_the_log_says_of_what(
    app: main.Application, caplog: pytest.LogCaptureFixture
) -> None:
    (start, body) = ask(app, go_away, "GET", "/models")  # the application was never started: it has no resources
    assert start["status"] == 500
    assert b"resources" not in body["body"]
    assert "unexpected error of GET /models" in caplog.text
    assert "AttributeError" in caplog.text


def test_an_error_after_the_answer_has_begun_cuts_it() -> None:
    """Or the client would take a part for the whole."""

    async def begin_and_fail(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("missing")

    with pytest.raises(KeyError):
        ask(Problems(begin_and_fail), go_away)


@pytest.mark.parametrize(("method", "path"), [("POST", "/generate?arch=wgan&m=1"), ("GET", "/jobs?m=1")])
def test_an_unknown_parameter_is_called_one(api: httpx.Client, method: str, path: str) -> None:
    answer = api.request(method, path)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "m", "detail": "unknown parameter"}]


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_body_where_a_query_belongs_is_told_so(api: httpx.Client, method: str) -> None:
    """It was ignored, or the parameters that it had were missed."""
    for path in ("/generate", "/generate?arch=wgan"):
        answer = api.request(method, path, json={"arch": "wgan", "n": 4})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "body")
        assert "parameters go into the query" in answer.json()["detail"]
