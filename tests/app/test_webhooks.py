"""Webhooks from a real API to a real receiver. tests/worker/test_webhooks.py has what happens to them in Redis."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import addresses, webhooks
from app.addresses import ReceiverError, Receivers, is_public
from app.dependencies import JobQueue
from app.processes.valkey import find_free_port
from tests.processes import Process, answers, eventually, running_api, running_valkey
from tests.worker.test_tls import make_certificate
from worker.broker import Publisher
from worker.connections import connect as connect_redis
from worker.jobs import MAX_LOST, MAX_PER_RECEIVER, JobState, JobStore, TrainRequest

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
TRIES = 7  # of the row "quick webhooks" in tests/system/host.py
QUICK = {"module": "tests.system.host", "CHANGES_FOR_TESTS": "quick webhooks"}
PRIVATE = {"DIGITS_WEBHOOK_PRIVATE": "true"}
FAR = "Mon, 01 Jan 99999999999999 00:00:00"  # a date that no integer of C has room for


@dataclass
class Call:
    """One request that a receiver has heard."""

    path: str
    headers: dict[str, str]
    body: bytes
    began: float
    ended: float = 0.0
    sent: int = 0  # bytes of the answer's body

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def told(self) -> Any:
        return json.loads(self.body)

    def is_signed(self, key: bytes = KEY) -> bool:
        """As the standard says, and in the last minute."""
        signed = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        is_fresh = abs(time.time() - int(self.headers["webhook-timestamp"])) < 60
        return is_fresh and self.headers["webhook-signature"] == f"v1,{signature}"


Answer = Callable[[BaseHTTPRequestHandler, Call], object]


def say(status: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, call: Call) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def say_nothing(handler: BaseHTTPRequestHandler, call: Call) -> None:
    """Until the other side closes."""
    handler.connection.settimeout(60)
    handler.connection.recv(1)


def say_little_by_little(handler: BaseHTTPRequestHandler, call: Call) -> None:
    """A byte at a time: no single one is late, and the whole never comes."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


def say_too_much(handler: BaseHTTPRequestHandler, call: Call) -> None:
    handler.send_response(200)
    handler.end_headers()
    while call.sent < 100_000_000:
        call.sent += handler.wfile.write(b"x" * 65_536)


def say_endless_headers(handler: BaseHTTPRequestHandler, call: Call) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while call.sent < 100_000_000:
        call.sent += handler.wfile.write(b"X-More: " + b"x" * 65_536 + b"\r\n")


def die_in_the_middle(handler: BaseHTTPRequestHandler, call: Call) -> None:
    handler.wfile.write(b"HTTP/1.1 2")
    handler.connection.shutdown(socket.SHUT_RDWR)


def speak_otherwise(handler: BaseHTTPRequestHandler, call: Call) -> None:
    handler.wfile.write(b"220 mail.example ESMTP\r\n")


@dataclass
class Receiver:
    """Answers the k-th call of a path with the k-th of its answers, the last one again and again."""

    port: int = 0
    scheme: str = "http"
    host: str = "127.0.0.1"
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    connections: int = 0
    names: list[str | None] = field(default_factory=list)  # that TLS was asked for

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{path}"

    def expect(self, *answers: Answer) -> str:
        """A URL of its own for these answers."""
        path = f"/{len(self.answers)}?a=1;b=%20"
        self.answers[path] = list(answers)
        return self.url(path)

    def heard(self, job_id: str) -> list[Call]:
        return [call for call in list(self.calls) if call.id == job_id]


@contextmanager
def receiving(tls: tuple[Path, Path] | None = None) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            call = Call(self.path, headers, body, time.monotonic())
            earlier = len([other for other in receiver.calls if other.path == self.path])
            receiver.calls.append(call)
            answers = receiver.answers.get(self.path, [say(204)])
            with suppress(OSError):  # the other side has closed
                answers[min(earlier, len(answers) - 1)](self, call)
            call.ended = time.monotonic()
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 100

        def get_request(self) -> Any:
            receiver.connections += 1
            return super().get_request()

        def finish_request(self, request: Any, client_address: Any) -> None:  # in the thread of a connection
            if not tls:
                super().finish_request(request, client_address)
                return
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
            context.sni_callback = lambda _, name, __: receiver.names.append(name)
            with suppress(OSError), context.wrap_socket(request, server_side=True) as secure:
                super().finish_request(secure, client_address)

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_address[1]
        receiver.scheme = "https" if tls else "http"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield receiver
        finally:
            server.shutdown()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("webhooks")


@pytest.fixture
def own_url(tmp_path: Path) -> Iterator[str]:
    """A Redis of a test's own, so that no other process takes its webhooks."""
    with running_valkey(tmp_path) as (_, url):
        yield url


@pytest.fixture(scope="module")
def quick_url(folder: Path) -> Iterator[str]:
    with running_valkey(folder) as (_, url):
        yield url


@pytest.fixture(scope="module")
def certificate(folder: Path) -> tuple[Path, Path]:
    """The only one that ``apis`` trust, for localhost, and its key."""
    return make_certificate(folder, "localhost")


@pytest.fixture(scope="module")
def apis(folder: Path, quick_url: str, model_dir: Path, certificate: tuple[Path, Path]) -> Iterator[list[httpx.Client]]:
    """Two processes on one Redis. A proxy of the environment, which does not exist, is not used."""
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"), "http://127.0.0.1:9")
    environment = {"DIGITS_REDIS_URL": quick_url, "DIGITS_MODEL_DIR": str(model_dir), **PRIVATE, **QUICK, **proxies}
    environment["SSL_CERT_FILE"] = str(certificate[0])
    with ExitStack() as stack:
        yield [stack.enter_context(running_api(folder, **environment)) for _ in range(2)]


@pytest.fixture
def jobs(quick_url: str) -> JobStore:
    """The jobs of ``quick``: none."""
    client = connect_redis(quick_url)
    client.flushdb()
    return JobStore(client)


@pytest.fixture
def quick(apis: list[httpx.Client], jobs: JobStore) -> httpx.Client:
    """One of two processes whose tries follow each other quickly."""
    return apis[0]


def queue_job(api: httpx.Client, url: str, secret: str = SECRET) -> str:
    answer = api.post("/train", json={"arch": "wgan", "webhook": {"url": url, "secret": secret}})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def end_job(api: httpx.Client, url: str, secret: str = SECRET) -> str:
    job_id = queue_job(api, url, secret)
    assert api.delete(f"/jobs/{job_id}").status_code == 200
    return job_id


def delivery(api: httpx.Client, job_id: str) -> Any:
    return api.get(f"/jobs/{job_id}").json()["webhook"]


def wait_for(api: httpx.Client, job_id: str, state: str) -> Any:
    eventually(lambda: delivery(api, job_id)["state"] == state, f"the webhook is {state}")
    return delivery(api, job_id)


def finish(state: JobState, store: JobStore, job_id: str, **facts: int | str) -> None:
    claim = store.claim(job_id, "worker")
    assert claim is not None
    store.finish(claim, state, **facts)


def lose(store: JobStore, job_id: str) -> None:
    for _ in range(MAX_LOST):
        store.claim(job_id, "worker")
        store.lose(job_id, "worker")


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (lambda store, job_id: finish(JobState.SUCCEEDED, store, job_id, version=7), "succeeded"),
        (lambda store, job_id: finish(JobState.FAILED, store, job_id, error="the disk is full"), "failed"),
        (lambda store, job_id: store.cancel(job_id), "canceled"),
        (lose, "failed"),
    ],
    ids=["succeeded", "failed", "canceled", "lost"],
)
def test_the_receiver_is_told_of_every_end_and_can_check_who_says_so(
    quick: httpx.Client, jobs: JobStore, receiver: Receiver, end: Callable[[JobStore, str], None], state: str
) -> None:
    url = receiver.expect(say(204))
    job_id = queue_job(quick, url)
    assert delivery(quick, job_id) == {"url": url, "state": "waiting", "tries": 0, "error": None}
    end(jobs, job_id)
    assert wait_for(quick, job_id, "delivered") == {"url": url, "state": "delivered", "tries": 1, "error": None}
    (call,) = receiver.calls
    assert call.is_signed()
    assert not call.is_signed(bytes(32))
    assert call.id == job_id
    assert (call.headers["content-type"], call.headers["host"]) == ("application/json", f"127.0.0.1:{receiver.port}")
    assert f"http://127.0.0.1:{receiver.port}{call.path}" == url
    job = quick.get(f"/jobs/{job_id}").json()
    told = call.told
    assert told == {
        "type": f"job.{state}",
        "timestamp": job["ended_at"],
        "data": {**job, "webhook": {"url": url, "state": "waiting", "tries": 1, "error": None}},
    }


def test_without_a_webhook_nobody_is_told(quick: httpx.Client, receiver: Receiver) -> None:
    job = quick.post("/train", json={"arch": "wgan"}).json()
    quick.delete(f"/jobs/{job['id']}")
    assert job["webhook"] is None
    later = end_job(quick, receiver.expect(say(200)))
    wait_for(quick, later, "delivered")
    assert [call.id for call in receiver.calls] == [later]


def test_the_secret_is_in_no_answer_event_or_log(quick: httpx.Client, receiver: Receiver, folder: Path) -> None:
    url = receiver.expect(say(500), say(200))
    body = {"arch": "wgan", "webhook": {"url": url, "secret": SECRET}}
    texts = [quick.post("/train", json=body, headers={"Idempotency-Key": "k"}).text for _ in range(2)]
    job_id = json.loads(texts[0])["id"]
    assert json.loads(texts[1])["id"] == job_id
    texts += [quick.get("/jobs").text, quick.delete(f"/jobs/{job_id}").text, quick.get(f"/jobs/{job_id}").text]
    wait_for(quick, job_id, "delivered")
    texts += [quick.get(f"/jobs/{job_id}").text, quick.get(f"/jobs/{job_id}/events").text]
    texts += [quick.get("/", headers={"Accept": "text/html"}).text, receiver.calls[0].body.decode()]
    for wrong in ({"url": "x", "secret": SECRET}, {"url": url, "secret": SECRET + "?"}):
        answer = quick.post("/train", json={"arch": "wgan", "webhook": wrong})
        assert answer.status_code == 422
        texts.append(answer.text)
    texts += [log.read_text() for log in folder.glob("*.log")]
    assert any("was not taken" in text for text in texts)
    part = SECRET.removeprefix("whsec_")[:20]
    assert not [text for text in texts if part in text]


def test_a_key_belongs_to_one_webhook(quick: httpx.Client, receiver: Receiver) -> None:
    url = receiver.expect(say(200))
    good = {"url": url, "secret": SECRET}
    others = [{"url": url, "secret": "whsec_" + "A" * 32}, {"url": url + "x", "secret": SECRET}, None]
    bodies = [{"arch": "wgan", "webhook": webhook} for webhook in (good, good, *others)]
    statuses = [quick.post("/train", json=body, headers={"Idempotency-Key": "w"}).status_code for body in bodies]
    assert statuses == [202, 202, 422, 422, 422]


FAILURES: list[tuple[Answer, str]] = [
    (say(500), "answered 500"),
    (say(404), "answered 404"),
    (say(302, Location="/elsewhere"), "redirects are not followed"),
    (say(307, Location="/elsewhere"), "redirects are not followed"),
    (say_nothing, "no answer within 1 s"),
    (say_little_by_little, "no answer within 1 s"),
    (die_in_the_middle, "the connection broke"),
    (speak_otherwise, "not HTTP"),
    (say_endless_headers, "not HTTP"),
]


def test_what_failed_is_sent_again(quick: httpx.Client) -> None:
    """All at once, each to a receiver of its own."""
    with ExitStack() as stack:
        receivers = [stack.enter_context(receiving()) for _ in FAILURES]
        ids = [
            end_job(quick, receiver.expect(answer, say(500), say(200)))
            for receiver, (answer, _) in zip(receivers, FAILURES, strict=True)
        ]
        for receiver, job_id, (_, error) in zip(receivers, ids, FAILURES, strict=True):
            found = wait_for(quick, job_id, "delivered")
            calls = receiver.heard(job_id)
            assert (found["tries"], found["error"], len(calls)) == (3, "the receiver answered 500", 3), error
            assert error in calls[1].told["data"]["webhook"]["error"]
            assert all(call.is_signed() for call in calls)
            assert "/elsewhere" not in {call.path for call in receiver.calls}
            assert calls[0].sent < 10_000_000


def test_a_receiver_that_is_away_is_asked_again(quick: httpx.Client) -> None:
    job_id = end_job(quick, f"http://127.0.0.1:{find_free_port()}/")
    found = wait_for(quick, job_id, "gave_up")
    assert (found["tries"], "no connection" in found["error"]) == (TRIES, True)


def test_after_the_last_try_it_is_given_up_and_the_log_says_so(
    quick: httpx.Client, receiver: Receiver, folder: Path
) -> None:
    job_id = end_job(quick, receiver.expect(say(503)))
    found = wait_for(quick, job_id, "gave_up")
    assert (found["tries"], found["error"], len(receiver.heard(job_id))) == (TRIES, "the receiver answered 503", TRIES)
    logs = "".join(log.read_text() for log in folder.glob("*.log"))
    assert f"the webhook of job {job_id} is given up after {TRIES} tries: the receiver answered 503" in logs


def test_a_receiver_that_is_gone_is_asked_once(quick: httpx.Client, receiver: Receiver) -> None:
    job_id = end_job(quick, receiver.expect(say(410)))
    found = wait_for(quick, job_id, "gave_up")
    assert (found["tries"], found["error"], len(receiver.heard(job_id))) == (1, "the receiver answered 410", 1)


def test_an_answer_is_not_read_to_its_end(quick: httpx.Client, receiver: Receiver) -> None:
    job_id = end_job(quick, receiver.expect(say_too_much))
    assert wait_for(quick, job_id, "delivered")["tries"] == 1
    (call,) = receiver.calls
    eventually(lambda: call.ended, "the connection is closed")
    assert call.sent < 10_000_000  # what the buffers of the system hold


def test_a_receiver_may_ask_for_a_pause(quick: httpx.Client, receiver: Receiver) -> None:
    """In seconds, or with a date."""

    def name_a_date(handler: BaseHTTPRequestHandler, call: Call) -> None:
        at = datetime.now(UTC) + timedelta(seconds=3)
        say(503, Retry_After=format_datetime(at, usegmt=True))(handler, call)

    asking: list[Answer] = [say(503, Retry_After="2"), name_a_date]
    for job_id in [end_job(quick, receiver.expect(answer, say(200))) for answer in asking]:
        wait_for(quick, job_id, "delivered")
        first, second = receiver.heard(job_id)
        assert second.began - first.ended > 1.9


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("7", 7, 7),
        ("9" * 400, webhooks.MAX_RETRY_AFTER, webhooks.MAX_RETRY_AFTER),
        (timedelta(days=-1), 0, 0),
        (timedelta(minutes=10), 500, 600),
        (timedelta(days=9), webhooks.MAX_RETRY_AFTER, webhooks.MAX_RETRY_AFTER),
        ("Thu, 99 Foo 99999", 0, 0),
        (FAR, 0, 0),
    ],
)
def test_a_pause_has_bounds(text: str | timedelta, low: float, high: float) -> None:
    if isinstance(text, timedelta):
        text = format_datetime(datetime.now(UTC) + text)
    assert low <= webhooks._read_retry_after({"retry-after": text}) <= high


def test_after_a_date_that_is_too_far_webhooks_are_sent_as_ever(quick: httpx.Client, receiver: Receiver) -> None:
    odd = end_job(quick, receiver.expect(say(503, Retry_After=FAR), say(200)))
    assert wait_for(quick, odd, "delivered")["tries"] == 2
    assert wait_for(quick, end_job(quick, receiver.expect(say(200))), "delivered")["tries"] == 1


def test_a_delivery_that_raises_ends_no_other(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """This fails if what one delivery raises cancels the others."""
    monkeypatch.setattr(webhooks, "LOOK_SECONDS", 0.05)
    receivers = Receivers(allows_private=True)

    def fail(*_: float) -> float:
        raise RuntimeError("a fault")

    monkeypatch.setattr("random.uniform", fail)  # which only a try that has failed calls

    async def run(valkey_url: str) -> list[str]:
        store = JobStore(connect_redis(valkey_url))
        ids = []
        for url in (receiver.expect(say(503)), receiver.expect(say(200))):
            webhook = {"url": url, "secret": SECRET}
            ids.append(store.create(TrainRequest.model_validate({"arch": "wgan", "webhook": webhook}))[0].id)
        queue = JobQueue(store, Publisher(valkey_url), receivers, 9, 0)
        sending = asyncio.create_task(webhooks.Courier(queue, receivers).run())
        for job_id in ids:
            await asyncio.to_thread(store.cancel, job_id)
            await asyncio.to_thread(eventually, lambda job_id=job_id: receiver.heard(job_id), "it is asked")
        assert not sending.done()
        sending.cancel()
        queue.publisher.close()
        return ids

    with running_valkey(tmp_path) as (_, url):
        ids = asyncio.run(run(url))
    assert f"cannot deliver the webhook of job {ids[0]}" in caplog.text


def test_two_processes_send_each_once(quick: httpx.Client, receiver: Receiver) -> None:
    def answer(handler: BaseHTTPRequestHandler, call: Call) -> None:
        time.sleep(0.3)  # the other process looks three times meanwhile
        say(200)(handler, call)

    ids = [end_job(quick, receiver.expect(answer)) for _ in range(3 * MAX_PER_RECEIVER)]
    for job_id in ids:
        assert wait_for(quick, job_id, "delivered")["tries"] == 1
    assert sorted(call.id for call in receiver.calls) == sorted(ids)
    calls = sorted(receiver.calls, key=lambda call: call.began)
    at_once = [sum(other.began <= call.began < other.ended for other in calls) for call in calls]
    assert max(at_once) <= MAX_PER_RECEIVER


def test_a_slow_receiver_delays_no_other_and_no_answer(quick: httpx.Client, receiver: Receiver) -> None:
    slow = [end_job(quick, receiver.expect(say_nothing)) for _ in range(60)]
    eventually(lambda: len(receiver.calls) >= MAX_PER_RECEIVER, "it is asked")
    with receiving() as other:
        began = time.monotonic()
        ids = [end_job(quick, other.expect(say(200))) for _ in range(3)]
        eventually(lambda: len(other.calls) == 3, "the other receiver is told")
        assert sorted(call.id for call in other.calls) == sorted(ids)
        assert time.monotonic() - began < 15  # one after the other, it would be after 30 s of first tries
        assert not all(delivery(quick, job_id)["state"] == "gave_up" for job_id in slow)
    assert quick.get("/livez", timeout=5).status_code == 200


def test_a_process_that_is_killed_while_it_sends_loses_nothing(
    tmp_path: Path, own_url: str, model_dir: Path, receiver: Receiver
) -> None:
    """Nor does one that is killed between the end of a job and the first try."""
    environment = {"DIGITS_REDIS_URL": own_url, "DIGITS_MODEL_DIR": str(model_dir), **PRIVATE}
    environment |= {"CHANGES_FOR_TESTS": "quick webhooks", "DIGITS_API_PROCESSES": "1"}

    @contextmanager
    def running() -> Iterator[tuple[Process, httpx.Client]]:
        port = str(find_free_port())
        process = Process(tmp_path, "serve", module="tests.system.host", DIGITS_PORT=port, **environment)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                eventually(lambda: answers(client), "the API answers")
                yield process, client
        finally:
            process.end(signal.SIGKILL)

    with running() as (process, api):
        during = end_job(api, receiver.expect(say_nothing, say(200)))
        before = queue_job(api, receiver.expect(say(200)))
        eventually(lambda: receiver.heard(during), "it is being sent")
        process.end(signal.SIGKILL)
    JobStore(connect_redis(own_url)).cancel(before)
    with running() as (_, api):
        assert wait_for(api, before, "delivered")["tries"] == 1
        assert wait_for(api, during, "delivered")["tries"] == 2
    assert len(receiver.heard(during)) == 2
    assert len(receiver.heard(before)) == 1


def test_over_tls_the_receiver_proves_its_name(
    quick: httpx.Client, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    with (
        receiving(certificate) as known,
        receiving(make_certificate(tmp_path, "localhost")) as unknown,
    ):
        known.host = unknown.host = "localhost"
        job_id = end_job(quick, known.expect(say(200)))
        wait_for(quick, job_id, "delivered")
        assert set(known.names) == {"localhost"}
        assert known.calls[0].is_signed()
        known.host = "127.0.0.1"  # a name that its certificate does not have
        for job_id in [end_job(quick, receiver.expect(say(200))) for receiver in (unknown, known)]:
            assert "certificate verify failed" in wait_for(quick, job_id, "gave_up")["error"]
        assert (len(known.calls), unknown.calls) == (1, [])


def test_the_receiver_of_the_documents_checks_signatures(quick: httpx.Client, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    (code,) = re.findall(r"```python\n(import os\n.*?)```", text, re.DOTALL)
    port, script, output = find_free_port(), tmp_path / "receiver.py", tmp_path / "output"
    script.write_text(code.replace("9000", str(port)))

    def listens() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    with (
        output.open("w") as file,
        subprocess.Popen([sys.executable, script], env={**os.environ, "SECRET": SECRET}, stdout=file) as process,
    ):
        try:
            eventually(listens, "it listens")
            url = f"http://127.0.0.1:{port}/"
            good, forged = end_job(quick, url), end_job(quick, url, "whsec_" + "A" * 32)
            wait_for(quick, good, "delivered")
            assert wait_for(quick, forged, "gave_up")["error"] == "the receiver answered 401"
        finally:
            process.terminate()
    assert output.read_text() == f"job.canceled {good}\n"


WRONG = [
    ({}, ["webhook.url", "webhook.secret"]),
    ({"url": "https://a.example/", "secret": SECRET, "more": 1}, ["webhook.more"]),
    *(
        ({"url": url, "secret": SECRET}, ["webhook.url"])
        for url in [
            7, "", "a.example", "ftp://a.example/", "https://", "https:///path", "https://user:pass@a.example/",
            "https://a.example/#part", "https://a.example:0/", "https://a.example:65536/", "https://a.example:x/",
            "https://a..example/", "https://ä.example/", "https://１２７.0.0.1/", "https://a.example/a b",
            "https://a.example/\r\nX: y", "https://a.example\\@b.example/", "https://[::1", "https://[::g]/",
            "https://[fe80::1%25eth0]/", "https://[1::2::3]/", "https://" + "a" * 64 + ".example/",
            "https://a.example/" + "a" * 2_048,
        ]
    ),
    *(
        ({"url": "https://a.example/", "secret": secret}, ["webhook.secret"])
        for secret in [
            7, "", KEY.hex(), SECRET.removeprefix("whsec_"), "whsec_", "whsec_" + "A" * 31, "whsec_" + "A" * 28,
            "whsec_" + "A" * 30 + "==", "whsec_" + "A" * 87 + "=", "whsec_" + "A" * 88, SECRET + "\n", SECRET[:-1],
            "whsec_" + "_" * 32, "WHSEC_" + "A" * 32,
        ]
    ),
]  # fmt: skip


@pytest.mark.parametrize(("webhook", "fields"), WRONG)
def test_a_wrong_webhook_is_refused(api: httpx.Client, webhook: object, fields: list[str]) -> None:
    answer = api.post("/train", json={"arch": "wgan", "webhook": webhook})
    assert answer.status_code == 422
    errors = answer.json()["errors"]
    assert [error["field"] for error in errors] == fields
    if fields == ["webhook.secret"] and isinstance(webhook, dict) and isinstance(webhook["secret"], str):
        assert errors[0]["bound"] == {"min_bytes": 24, "max_bytes": 64}


@pytest.mark.parametrize("size", [24, 25, 26, 63, 64])
def test_secrets_of_all_sizes_are_taken(api: httpx.Client, store: JobStore, size: int) -> None:
    queue_job(api, "https://receiver.invalid:8443/a?b=c", "whsec_" + base64.b64encode(bytes(size)).decode())


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0", "0.0.0.0",
        "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255",
        "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]", "[64:ff9b::a00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fc00::1]", "[fd00::1]",
        "[fe80::1]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[100::1]",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused_at_once(api: httpx.Client, host: str) -> None:
    answer = api.post("/train", json={"arch": "wgan", "webhook": {"url": f"https://{host}:8443/", "secret": SECRET}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["bound"]) == ("webhook.url", "a public https address")
    assert "not a public address" in error["detail"]


def test_http_is_refused(api: httpx.Client) -> None:
    answer = api.post("/train", json={"arch": "wgan", "webhook": {"url": "http://93.184.215.14/", "secret": SECRET}})
    assert answer.status_code == 422
    assert "not https" in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "[2606:4700::1111]", "[::ffff:8.8.8.8]", "[64:ff9b::808:808]", "a.example"]
)
def test_other_addresses_are_taken(host: str) -> None:
    assert Receivers(allows_private=False).find_problem(f"https://{host}/") is None


def test_a_name_of_a_private_address_is_not_connected_to(
    api: httpx.Client, store: JobStore, receiver: Receiver
) -> None:
    job_id = end_job(api, f"https://localhost:{receiver.port}/")
    eventually(lambda: delivery(api, job_id)["error"], "the try has failed")
    found = delivery(api, job_id)
    assert (found["state"], found["tries"]) == ("waiting", 1)
    assert receiver.connections == 0
    unknown = end_job(api, "https://receiver.invalid/")
    eventually(lambda: delivery(api, unknown)["error"], "the try has failed")
    assert delivery(api, unknown)["error"] == found["error"] == addresses.NO_ADDRESS, "it says which names exist"


def test_the_setting_of_the_moment_counts(api: httpx.Client, store: JobStore, receiver: Receiver) -> None:
    """One that was accepted when http was allowed is not sent when it is not any more."""
    webhook = {"url": receiver.expect(say(200)), "secret": SECRET}
    job = store.create(TrainRequest.model_validate({"arch": "wgan", "webhook": webhook}))[0]
    store.cancel(job.id)
    eventually(lambda: "not https" in (delivery(api, job.id)["error"] or ""), "the try has failed")
    assert receiver.connections == 0


def connect(receivers: Receivers, host: str, port: int) -> None:
    async def run() -> None:
        stream = await receivers.connect_tcp(host, port)
        await stream.aclose()

    asyncio.run(run())


def test_one_private_address_among_several_is_enough_to_refuse(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_look_up", lambda host: ["8.8.8.8", "127.0.0.1"])
    with pytest.raises(ReceiverError, match=addresses.NO_ADDRESS):
        connect(Receivers(allows_private=False), "receiver.example", receiver.port)
    assert receiver.connections == 0


def test_the_address_that_was_checked_is_connected_to(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second look-up: the name exists nowhere else."""
    looked_up = []

    def look_up(host: str) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"]

    monkeypatch.setattr(addresses, "_look_up", look_up)
    connect(Receivers(allows_private=True), "receiver.invalid", receiver.port)
    eventually(lambda: receiver.connections == 1, "it is connected to")
    assert looked_up == ["receiver.invalid"]


def test_the_next_address_is_tried(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_look_up", lambda host: ["127.0.0.9", "127.0.0.1"])
    connect(Receivers(allows_private=True), "receiver.invalid", receiver.port)


def test_the_log_says_why_nothing_is_sent_to_a_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for host, allows_private in (("receiver.invalid", True), ("localhost", False)):
        with pytest.raises(ReceiverError, match=addresses.NO_ADDRESS):
            connect(Receivers(allows_private), host, 443)
    assert "receiver.invalid: the DNS knows no address" in caplog.text
    assert "localhost: it has an address that is not public" in caplog.text


def test_a_signature_is_the_published_one() -> None:
    """The example of the standard's libraries."""
    headers = webhooks.sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}'
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_the_tries_span_three_days() -> None:
    assert 72 * 3_600 < sum(webhooks.DELAYS) < 80 * 3_600


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("192.0.1.1", True), ("192.88.98.1", True), ("3ffe::1", True),
        ("fe80::1%eth0", False), ("192.0.2.1", False), ("240.0.0.1", False), ("192.0.0.9", False),
        ("192.0.0.254", False), ("192.88.99.1", False), ("::ffff:192.88.99.1", False), ("3fff::1", False),
        ("3fff:fff::1", False),
    ],
)  # fmt: skip
def test_addresses_are_public_or_not(address: str, expected: bool) -> None:
    assert is_public(address) is expected
