"""What the log says, and what it never says: real processes, in both forms."""

import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from starlette.types import ASGIApp

from app.calls import Call
from app.keys import Scope, add_key, revoke_key
from app.main import create_app
from app.middleware.access_log import AccessLog
from app.processes import valkey
from app.processes.valkey import find_free_port
from app.settings import ApiSettings
from tests.app.limited import FILES
from tests.processes import eventually, running, running_api
from worker import logs
from worker.jobs import JobStore, TrainRequest
from worker.logs import FORMS

ID = "[0-9a-f]{18}"
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ \d+ [\w.]+( \[[\w.:/+=-]+\])?: ")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
REDIS_PASSWORD = "never-in-a-log"


@dataclass
class Logged:
    """A service with keys and the access log, and what it has written."""

    client: httpx.Client
    folder: Path
    key: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def read(self) -> str:
        (log,) = self.folder.glob("serve-*.log")
        return log.read_text()

    def records(self) -> list[dict[str, Any]]:
        """All lines that are whole, in JSON."""
        return [json.loads(line) for line in self.read().split("\n")[:-1]]

    def find(self, name: str, **facts: object) -> list[dict[str, Any]]:
        """The lines of a logger with these facts."""
        wanted = {"logger": name, **facts}.items()
        return [
            line for line in self.records() if wanted <= {n: v for n, v in line.items() if n in dict(wanted)}.items()
        ]

    def wait_for(self, name: str, **facts: object) -> dict[str, Any]:
        """The only line of a logger with these facts."""
        eventually(lambda: self.find(name, **facts), f"a line of {name} with {facts}")
        (line,) = self.find(name, **facts)
        return line


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Callable[..., Logged]]:
    with ExitStack() as stack:

        def start(form: str, module: str = "tests.app.failing", **environment: str) -> Logged:
            folder = tmp_path_factory.mktemp(form)
            key = add_key(folder / "keys.json", "ada", frozenset([Scope.ADMIN]))
            environment = {
                "DIGITS_LOG": form,
                "DIGITS_ACCESS_LOG": "true",
                "DIGITS_KEYS_FILE": str(folder / "keys.json"),
                "DIGITS_REDIS_URL": valkey_url,
                "DIGITS_MODEL_DIR": str(folder / "models"),
                "DIGITS_HEADER_SECONDS": "0.5",
                **environment,
            }
            return Logged(stack.enter_context(running_api(folder, module=module, **environment)), folder, key)

        yield start


@pytest.fixture(scope="module")
def logged(make: Callable[..., Logged]) -> Logged:
    return make("json")


@pytest.fixture(scope="module")
def away() -> dict[str, str]:
    """A Redis with a password, and nobody is there."""
    return {"DIGITS_REDIS_URL": f"redis://digits:{REDIS_PASSWORD}@127.0.0.1:{find_free_port()}/0"}


@pytest.fixture(scope="module")
def plain(make: Callable[..., Logged], away: dict[str, str]) -> Logged:
    return make("text", **away)


@pytest.fixture(scope="module")
def quiet(make: Callable[..., Logged], valkey_url: str) -> Logged:
    """Without the access log, and Redis has another password."""
    url = re.sub(r":[^:@]+@", f":{REDIS_PASSWORD}@", valkey_url)
    return make("json", DIGITS_ACCESS_LOG="false", DIGITS_REDIS_URL=url)


def connect(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=60)


def talk(client: httpx.Client, sent: bytes) -> bytes:
    """Send bytes over a connection of their own, and read all that comes back."""
    with connect(client) as connection:
        connection.sendall(sent)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def test_a_line_has_time_level_logger_message_and_process(logged: Logged) -> None:
    for line in logged.records():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["level"] in ("INFO", "WARNING")
        assert line["logger"]
        assert isinstance(line["message"], str)
        assert isinstance(line["process"], int)
    assert {"uvicorn.error", "app.generators"} <= {line["logger"] for line in logged.records()}
    assert (
        abs(
            time.time()
            - time.mktime(time.strptime(logged.records()[0]["time"][:19], "%Y-%m-%dT%H:%M:%S"))
            + time.timezone
        )
        < 600
    )


def test_an_answer_is_a_line(logged: Logged) -> None:
    headers = {**logged.bearer, "User-Agent": "test/1", "traceparent": TRACEPARENT}
    answer = logged.client.get("/generate?arch=wgan&seed=7", headers=headers)
    line = logged.wait_for("digits.access", request_id=answer.headers["X-Request-ID"])
    expected = {
        "method": "GET",
        "path": "/generate?arch=wgan&seed=7",
        "status": 200,
        "bytes": len(answer.content),
        "client": "127.0.0.1",
        "key": "ada",
        "trace_id": TRACE,
        "user_agent": "test/1",
        "complete": True,
    }
    assert expected.items() <= line.items()
    assert 0 < line["seconds"] < 60


@pytest.mark.parametrize(
    ("status", "method", "path", "headers"),
    [
        (401, "GET", "/models", {}),
        (421, "GET", "/models", {"Host": "elsewhere.example"}),
        (404, "GET", "/nothing", {}),
        (405, "PUT", "/generate", {}),
        (422, "GET", "/generate?arch=bogus", {"X-API-Key": "{key}"}),
        (500, "GET", "/fail", {"X-API-Key": "{key}"}),
        (204, "OPTIONS", "/generate", {}),
        (200, "HEAD", "/livez", {}),
        (404, "HEAD", "/nothing", {}),
        (422, "HEAD", "/generate?arch=bogus", {"X-API-Key": "{key}"}),
        (307, "GET", "/livez/", {}),
    ],
)
def test_refused_and_failed_requests_are_lines_too(
    logged: Logged, status: int, method: str, path: str, headers: dict[str, str]
) -> None:
    sent = {name: value.format(key=logged.key) for name, value in headers.items()}
    answer = logged.client.request(method, path, headers=sent, follow_redirects=False)
    assert answer.status_code == status
    line = logged.wait_for("digits.access", request_id=answer.headers["X-Request-ID"])
    assert (line["status"], line["method"], line["path"], line["bytes"]) == (status, method, path, len(answer.content))


@pytest.mark.parametrize(
    ("status", "sent", "method", "path"),
    [
        (400, b"rubbish\r\n\r\n", "-", "-"),
        (400, b"GET /bad HTTP/1.1\r\nHost: localhost\r\nX: \x01\r\n\r\n", "GET", "/bad"),
        (408, b"GET /late-head HTTP/1.1\r\nHost: localhost\r\n", "GET", "/late-head"),
        (414, b"GET /" + b"x" * 70_000, "GET", "/" + "x" * 999),
        (431, b"GET /wide HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000, "GET", "/wide"),
    ],
)
def test_what_the_protocol_refuses_is_one_line(
    logged: Logged, status: int, sent: bytes, method: str, path: str
) -> None:
    before = len(logged.find("digits.access", status=status, path=path))
    received = talk(logged.client, sent)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    eventually(lambda: len(logged.find("digits.access", status=status, path=path)) > before, "a line")
    line = logged.find("digits.access", status=status, path=path)[-1]
    assert (line["method"], line["bytes"]) == (method, len(received.partition(b"\r\n\r\n")[2]))


def test_a_request_that_never_ends_is_one_line_with_the_answer_it_got(logged: Logged) -> None:
    head = f"POST /train HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {logged.key}\r\nX-Request-ID: half-sent\r\n"
    received = talk(logged.client, head.encode() + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    assert received.startswith(b"HTTP/1.1 408 ")
    line = logged.wait_for("digits.access", request_id="half-sent")
    assert (line["status"], line["bytes"]) == (408, len(received.partition(b"\r\n\r\n")[2]))
    assert 0.4 < line["seconds"] < 60
    logged.client.get("/livez", headers={"X-Request-ID": "after"})
    logged.wait_for("digits.access", request_id="after")
    assert len(logged.find("digits.access", status=408, path="/train")) == 1


def test_a_connection_without_a_place_is_a_line(make: Callable[..., Logged]) -> None:
    logged = make("json", "tests.app.limited", DIGITS_HEADER_SECONDS="60")
    asked = b"GET /generate?arch=dcgan&n=500&scale=8 HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %s\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(FILES):  # slow requests take all places, and the engine takes more of them than there are places
            stack.enter_context(connect(logged.client)).sendall(asked % logged.key.encode())
        eventually(lambda: logged.find("digits.access", status=503), "a line")
    line = logged.find("digits.access", status=503)[0]
    assert (line["method"], line["path"], line["client"]) == ("-", "-", "127.0.0.1")


def test_a_stream_is_a_line_when_it_ends(logged: Logged, store: JobStore) -> None:
    job, _ = store.create(TrainRequest.model_validate({"arch": "wgan"}))
    headers = {**logged.bearer, "X-Request-ID": "stream"}
    with logged.client.stream("GET", f"/jobs/{job.id}/events", headers=headers) as answer:
        events = answer.iter_bytes()
        size = len(next(events))
        assert not logged.find("digits.access", request_id="stream")
        store.cancel(job.id)
        size += sum(map(len, events))
    line = logged.wait_for("digits.access", request_id="stream")
    assert (line["status"], line["bytes"], line["complete"]) == (200, size, True)


def test_a_stream_that_its_client_left_is_a_line_that_says_so(logged: Logged, store: JobStore) -> None:
    job, _ = store.create(TrainRequest.model_validate({"arch": "wgan"}))
    headers = {**logged.bearer, "X-Request-ID": "left"}
    with logged.client.stream("GET", f"/jobs/{job.id}/events", headers=headers) as answer:
        next(answer.iter_bytes())
    assert logged.wait_for("digits.access", request_id="left")["complete"] is False


def test_a_request_that_its_client_cut_is_a_line_that_says_so(logged: Logged) -> None:
    head = f"POST /train HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {logged.key}\r\nX-Request-ID: cut\r\n"
    with connect(logged.client) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    line = logged.wait_for("digits.access", request_id="cut")
    assert (line["status"], line["bytes"], line["complete"]) == (499, 0, False)


def test_what_is_logged_within_a_request_has_its_id_and_its_key(logged: Logged) -> None:
    """In the event loop, and in a thread that it waits for."""
    sent = {**logged.bearer, "X-Request-ID": "within", "traceparent": TRACEPARENT}
    logged.client.get("/fail", headers=sent)
    line = logged.wait_for("app.errors", request_id="within")
    assert (line["key"], line["trace_id"], line["level"]) == ("ada", TRACE, "ERROR")
    assert line["exception"].endswith("ValueError: cannot answer /fail")
    assert not [line for line in logged.records() if line["logger"] == "app.generators" and "request_id" in line]


def test_a_job_keeps_where_it_comes_from(logged: Logged, store: JobStore) -> None:
    def train(**headers: str) -> dict[str, Any]:
        answer = logged.client.post("/train", json={"arch": "vanilla"}, headers={**logged.bearer, **headers})
        found: dict[str, Any] = logged.client.get(answer.headers["Location"], headers=logged.bearer).json()
        assert found == {**answer.json(), "queue_position": found["queue_position"]}
        return found

    job = train(traceparent=TRACEPARENT, **{"X-Request-ID": "mine"})
    assert (job["request_id"], job["traceparent"]) == ("mine", TRACEPARENT)
    job = train(traceparent="rubbish")
    assert re.fullmatch(ID, job["request_id"])
    assert job["traceparent"] is None
    before, _ = store.create(TrainRequest.model_validate({"arch": "wgan"}))  # as an earlier release recorded it
    assert (before.request_id, before.traceparent) == (None, None)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (TRACEPARENT, TRACEPARENT),
        (f"cc-{TRACE}-00f067aa0ba902b7-01", f"cc-{TRACE}-00f067aa0ba902b7-01"),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-more", f"cc-{TRACE}-00f067aa0ba902b7-01"),
        (f"cc-{TRACE}-00f067aa0ba902b7-01more", None),
        (f"{TRACEPARENT}-more", None),
        (f"{TRACEPARENT}{TRACEPARENT}", None),  # sent twice
        (f"ff-{TRACE}-00f067aa0ba902b7-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (TRACEPARENT.upper(), None),
        (f"{TRACEPARENT}\n", None),
        ("", None),
    ],
)
def test_a_traceparent_counts_if_it_is_valid(sent: str, kept: str | None) -> None:
    assert Call("id", parent=sent.encode()).traceparent == kept


def test_changes_are_in_the_audit_log(logged: Logged) -> None:
    def train(request_id: str) -> str:
        headers = {**logged.bearer, "X-Request-ID": request_id, "Idempotency-Key": "once"}
        return str(logged.client.post("/train", json={"arch": "vanilla", "epochs": 3}, headers=headers).json()["id"])

    job_id = train("first")
    assert train("second") == job_id
    path = f"/jobs/{job_id}?keep=true"
    logged.client.delete(path, headers={**logged.bearer, "X-Request-ID": "third"})
    told = {"key": "ada", "client": "127.0.0.1", "job": job_id, "level": "INFO"}
    trained = {**told, "event": "train", "arch": "vanilla", "recipe": "tuned", "epochs": 3}
    assert {**trained, "new": True}.items() <= logged.wait_for("digits.audit", request_id="first").items()
    assert {**trained, "new": False}.items() <= logged.wait_for("digits.audit", request_id="second").items()
    line = logged.wait_for("digits.audit", request_id="third")
    assert {**told, "event": "cancel", "keep": True}.items() <= line.items()


def test_keys_that_come_and_go_are_in_the_audit_log(logged: Logged) -> None:
    file = logged.folder / "keys.json"
    key = add_key(file, "pupil", frozenset([Scope.DRAW, Scope.TRAIN]))
    eventually(lambda: logged.client.get("/models", headers={"X-API-Key": key}).status_code == 200, "the key is good")
    revoke_key(file, "pupil")
    eventually(lambda: logged.client.get("/models", headers={"X-API-Key": key}).status_code == 401, "it is not")
    for event in ("key-added", "key-removed"):
        line = logged.wait_for("digits.audit", event=event)
        assert (line["name"], line["id"], line["scopes"]) == ("pupil", key[7:15], "draw,train")
        assert "request_id" not in line  # which one happened to be the next says nothing


def test_wrong_keys_are_told_once_a_second(logged: Logged) -> None:
    wrong = logged.key[:-1] + ("A" if logged.key[-1] != "A" else "B")

    def find() -> list[dict[str, Any]]:
        return logged.find("digits.audit", event="wrong-key", id=logged.key[7:15])

    def ask() -> None:
        assert logged.client.get("/models", headers={"X-API-Key": wrong}).status_code == 401
        assert logged.client.post("/login", data={"key": wrong}).status_code == 401

    eventually(find, "a line", progress=ask)  # the tests before may have had that of this second
    began = time.monotonic()
    for _ in range(20):
        ask()
    assert 1 <= len(find()) <= 2 + time.monotonic() - began
    assert (find()[0]["level"], find()[0]["client"]) == ("WARNING", "127.0.0.1")


def test_text_shows_the_id_of_the_request(plain: Logged) -> None:
    headers = {**plain.bearer, "X-Request-ID": "seen", "User-Agent": "test/1"}
    size = len(plain.client.get("/livez", headers=headers).content)
    expected = rf' INFO \d+ digits\.access \[seen\]: 127\.0\.0\.1 ada "GET /livez" 200 {size} B 0\.\d+ s "test/1"$'
    eventually(lambda: re.search(expected, plain.read(), re.MULTILINE), "the line")


def test_no_client_can_forge_a_line(plain: Logged) -> None:
    """What begins a line of the log is a line of ours; the lines of a traceback are indented."""
    forged = "2026-01-01 00:00:00,000 INFO 1 forged: x"
    for path in (f"/fail%0A{forged}", f"/fail%0D%1B[2K{forged}", f"/%0A{forged}", f"/models/%E2%80%A8{forged}"):
        agent = f'a" 200 \x9b2K "{forged}'.encode("latin-1")
        sent = {name.encode(): value.encode() for name, value in plain.bearer.items()}
        plain.client.get(path, headers={**sent, b"User-Agent": agent})
    plain.client.get("/livez", headers={"X-Request-ID": "last"})
    eventually(lambda: "[last]" in plain.read(), "the last line")
    text = plain.read()
    assert f"ValueError: cannot answer /fail\n    {forged}\n" in text
    assert f"unexpected error of GET /fail\\n{forged}\n" in text
    for line in text.split("\n")[:-1]:
        assert LINE.match(line) or line.startswith("    "), line
        assert not re.match(r"\S+ \S+ INFO 1 forged", line)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028]", text)
    assert '"a\\" 200 \\x9b2K \\"' in text


def list_disguises(key: str) -> list[str]:
    """The key as it may stand in a path or a query beside its own form."""
    name, number, secret = key.split("_", 2)
    encoded = "".join(f"%{ord(one):02X}" for one in key)
    return [
        f"{name}%5F{number}%5F{secret}",
        f"%64igits%5f{number}_{secret.replace('-', '%2d')}",
        f"DIGITS_{number}_{secret.upper()}",
        encoded,
        encoded.lower().replace("%", "%25"),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_no_secret_is_in_the_log(plain: Logged, make: Callable[..., Logged], away: dict[str, str], form: str) -> None:
    """The password of a Redis that is away, and keys wherever a client may put them."""
    service = plain if form == "text" else make(form, **away)
    client, key = service.client, service.key
    for good in (service.bearer, {"X-API-Key": key}, {"Cookie": f"digits_key={key}"}):
        assert client.post("/train", json={"arch": "wgan"}, headers=good).status_code == 503
        assert client.get("/fail", headers=good).status_code == 500
    for text in (key, key[:-1], key + "x", *list_disguises(key)):
        for path in (f"/models?key={text}", f"/fail/{text}", f"/{text}", f"/jobs/{text}"):
            client.get(path, headers=service.bearer)
        for name in ("X-Request-ID", "User-Agent", "traceparent", "Accept", "Idempotency-Key", "Authorization", "Host"):
            client.get("/fail", headers={**service.bearer, name: text})
        client.post("/login", data={"key": text, "next": f"/{text}"})
        client.post("/train", json={text: text}, headers=service.bearer)
        talk(client, f"GET /{text} HTTP/1.1\r\nX: {text}\x01\r\n\r\n".encode())
    client.get("/livez", headers={"X-Request-ID": "the-end"})
    eventually(lambda: re.search(r"livez.*the-end|the-end.*livez", service.read()), "the last line")
    text = service.read()
    assert text.count("digits.access") > 40
    assert "unexpected error" in text
    assert "redis" in text
    assert REDIS_PASSWORD not in text
    assert key[16:36].lower() not in unquote(unquote(text)).lower()
    for id_ in (f"digits_{key[7:15]}_", f"digits%5F{key[7:15]}_", f"%64igits%5f{key[7:15]}_", f"DIGITS_{key[7:15]}_"):
        assert id_ in text  # that is, they were there


def test_a_wrong_password_of_redis_is_in_no_log(quiet: Logged) -> None:
    assert quiet.client.post("/train", json={"arch": "wgan"}, headers=quiet.bearer).status_code == 503
    eventually(lambda: "worker.reconciler" in quiet.read(), "the reconciler complains")
    assert REDIS_PASSWORD not in quiet.read()


def test_without_the_setting_there_is_no_access_log_and_no_layer(quiet: Logged, model_dir: Path) -> None:
    quiet.client.get("/fail", headers=quiet.bearer)
    talk(quiet.client, b"rubbish\r\n\r\n")
    quiet.client.get("/fail", headers={**quiet.bearer, "X-Request-ID": "last"})
    quiet.wait_for("app.errors", request_id="last")
    assert not quiet.find("digits.access")
    for wanted in (False, True):
        settings = ApiSettings.model_validate({"model_dir": model_dir, "device": "cpu", "access_log": wanted})
        assert (AccessLog in list_layers(create_app(settings).build_middleware_stack())) is wanted


def list_layers(app: ASGIApp) -> list[type]:
    inner = getattr(app, "_app", None) or getattr(app, "app", None)
    return [type(app), *(list_layers(inner) if inner else [])]


def test_several_processes_write_whole_lines(make: Callable[..., Logged]) -> None:
    several = make("json", "app", DIGITS_API_PROCESSES="2")

    def both_have_answered() -> bool:
        for _ in range(20):
            httpx.get(several.client.base_url.join("/livez"), verify=False)  # each over a connection of its own
        return len({line["process"] for line in several.find("digits.access")}) == 2

    eventually(both_have_answered, "a line of each of the two, and all lines are JSON")


@pytest.mark.parametrize(
    ("command", "environment", "said"),
    [
        ("serve", {"DIGITS_HOST": "192.0.2.1"}, "DIGITS_KEYS_FILE"),
        ("serve", {"DIGITS_PORT": "x"}, "DIGITS_PORT"),
        ("serve", {"DIGITS_PROT": "1", "DIGITS_HOST": "192.0.2.1", "DIGITS_OPEN": "true"}, "is DIGITS_PORT meant?"),
        ("worker", {}, "DIGITS_REDIS_URL"),
        ("up", {"DIGITS_STATE_DIR": "/proc/none"}, "DIGITS_STATE_DIR"),
    ],
)
def test_what_ends_the_service_is_json_too(
    tmp_path: Path, command: str, environment: dict[str, str], said: str
) -> None:
    with running(tmp_path, command, DIGITS_LOG="json", **environment) as process:
        assert process.popen.wait(60) in (1, 2)
        lines = [json.loads(line) for line in process.output.splitlines()]
    assert any(said in line["message"] for line in lines)
    assert lines[-1]["level"] == "ERROR"


def test_another_form_is_refused_by_name(tmp_path: Path) -> None:
    with running(tmp_path, "serve", DIGITS_LOG="xml") as process:
        assert process.popen.wait(60) == 2
        assert "DIGITS_LOG: Input should be 'text' or 'json'" in process.output


@pytest.mark.parametrize("form", FORMS)
def test_what_a_line_is_about_may_have_any_name(form: str) -> None:
    record = logging.makeLogRecord({"name": "x", "msg": "m\x1bn", "facts": {"name": "y", "args": "z"}})
    line = FORMS[form]().format(record)
    assert "\x1b" not in line
    if form == "json":
        assert {"message": "m\x1bn", "name": "y", "args": "z"}.items() <= json.loads(line).items()


def test_what_valkey_says_is_a_line_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    valkey._log_line("12:M 26 Nov 2026 13:43:30.123 # Out of memory")
    valkey._log_line("12:signal-handler (1795701160) Received SIGTERM")
    valkey._log_line("*** FATAL CONFIG FILE ERROR ***")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Out of memory"),
        ("INFO", "Received SIGTERM"),
        ("INFO", "*** FATAL CONFIG FILE ERROR ***"),
    ]


def test_the_log_is_set_up_once_more_without_a_second_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As in a training child, which Celery sets up, too."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.set_up("json")
        logs.set_up("json")
        logging.getLogger("x").info("once")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert capsys.readouterr().err.count("once") == 1
