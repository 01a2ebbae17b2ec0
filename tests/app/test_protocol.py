"""What a connection may send, in how much time: raw sockets against a real service."""

import itertools
import json
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from app.processes.protocol import MAX_HEAD_BYTES
from tests.app.limited import FILES
from tests.processes import eventually, running_api

SECONDS = 0.5  # DIGITS_HEADER_SECONDS of the service of these tests
HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
TRAIN = b"POST /train HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = TRAIN + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("bounded")
    with running_api(folder, DIGITS_MODEL_DIR=str(folder), DIGITS_HEADER_SECONDS=str(SECONDS)) as client:
        yield client


def connect(client: httpx.Client) -> socket.socket:
    assert client.base_url.port
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=30)


def talk(client: httpx.Client, parts: Iterable[bytes], pause: float = 0.0) -> bytes:
    """Send until the service has had enough; return everything that it answers until it ends the connection."""
    with connect(client) as connection:
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        answer = b""
        with suppress(ConnectionError):
            while received := connection.recv(65_536):
                answer += received
        return answer


def read_statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


def read_problem(answer: bytes) -> dict[str, object]:
    """The problem that an answer ends with."""
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"\r\nconnection: close" in head
    problem = json.loads(body)
    assert isinstance(problem, dict)
    return problem


def repeat(part: bytes, size: int) -> Iterator[bytes]:
    """About ``size`` bytes in pieces."""
    piece = part * (65_536 // len(part))
    return itertools.repeat(piece, size // len(piece) + 1)


MEGABYTES = 20_000_000


@pytest.mark.parametrize(
    ("start", "part", "status"),
    [
        (HEAD + b"X: ", b"a", 431),
        (HEAD, b"X: a\r\n", 431),
        (HEAD + b"X", b"x", 431),
        (b"GET /", b"a", 414),
        (b"", b"\r\n", 431),
        (CHUNKED + b"2;", b"x", 431),
        (CHUNKED + b"0\r\n", b"X: a\r\n", 431),
        (CHUNKED + b"0\r\nX: ", b"a", 431),
    ],
    ids=["value", "headers", "name", "url", "lines", "extension", "trailers", "trailer"],
)
def test_nothing_but_a_body_has_no_end(bounded: httpx.Client, start: bytes, part: bytes, status: int) -> None:
    answer = talk(bounded, itertools.chain([start], repeat(part, MEGABYTES)))
    assert read_statuses(answer) == [status]
    assert read_problem(answer)["status"] == status


@pytest.mark.parametrize("pieces", [1, 7])
def test_the_bound_of_a_head(bounded: httpx.Client, pieces: int) -> None:
    for size, status in ((MAX_HEAD_BYTES - 500, 200), (MAX_HEAD_BYTES, 431), (200_000, 431)):
        request = HEAD + b"Connection: close\r\nX: " + b"a" * size + b"\r\n\r\n"
        step = -(-len(request) // pieces)
        answer = talk(bounded, (request[i : i + step] for i in range(0, len(request), step)))
        assert read_statuses(answer) == [status], size
    answer = talk(bounded, [b"GET /livez?" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"])
    assert read_problem(answer)["errors"] == [
        {"field": "url", "detail": "the request line is too long", "bound": {"le": MAX_HEAD_BYTES}}
    ]


def test_others_are_answered_beside_a_header_without_end(bounded: httpx.Client) -> None:
    with connect(bounded) as connection:
        connection.sendall(HEAD + b"X: ")
        with suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(b"a" * 65_536)
                assert bounded.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "start",
    [
        b"G",
        HEAD,
        CHUNKED,
        CHUNKED + b"2\r\n{",
        TRAIN + b"Content-Length: 9\r\n\r\n{",
        TRAIN + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    ],
)
def test_a_half_sent_request_is_ended(bounded: httpx.Client, start: bytes) -> None:
    began = time.monotonic()
    answer = talk(bounded, [start])
    assert read_problem(answer)["status"] == 408
    assert time.monotonic() - began < SECONDS + 10


def test_a_request_that_comes_byte_by_byte_is_ended(bounded: httpx.Client) -> None:
    answer = talk(bounded, itertools.chain([HEAD + b"X: "], itertools.repeat(b"a", 40)), pause=0.05)
    assert read_problem(answer)["status"] == 408


def test_an_answer_that_needs_no_body_does_not_wait_for_it(bounded: httpx.Client) -> None:
    """But the connection is no longer of use then."""
    start = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
    assert read_statuses(talk(bounded, [start])) == [200]


def test_what_follows_an_answered_request_takes_nothing_from_it(bounded: httpx.Client) -> None:
    request = HEAD + b"\r\n"
    assert read_statuses(talk(bounded, [request * 3 + b"rubbish\r\n\r\n"])) == [200, 200, 200]
    assert read_statuses(talk(bounded, [request, b"rubbish\r\n\r\n"], pause=0.2)) == [200, 400]
    assert read_statuses(talk(bounded, [request * 2 + HEAD])) == [200, 200, 408]
    slow = b"GET /generate?arch=dcgan&n=1024 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    began = time.monotonic()
    assert read_statuses(talk(bounded, [slow + CHUNKED + b"zz\r\n"])) == [200]
    assert time.monotonic() - began < 20
    for wrong in (b"rubbish\r\n\r\n", HEAD + b"X: " + b"a" * MAX_HEAD_BYTES):
        assert read_statuses(talk(bounded, [slow + request, wrong], pause=0.01)) == [200, 200]


@pytest.mark.parametrize(
    "request_",
    [
        b"rubbish\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        HEAD + b"X : a\r\n\r\n",
        HEAD + b"X: a\x00b\r\n\r\n",
        HEAD + b" folded: a\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        HEAD + b"Content-Length: +1\r\n\r\na",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: identity, chunked, gzip\r\n\r\n0\r\n\r\n",
        CHUNKED + b"zz\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /ö HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
    ],
)
def test_what_is_not_http_gets_a_problem(bounded: httpx.Client, request_: bytes) -> None:
    answer = talk(bounded, [request_])
    assert read_statuses(answer) == [400]
    problem = read_problem(answer)
    assert problem["status"] == 400
    assert "not valid HTTP" in str(problem["detail"])


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
def test_an_upgrade_is_not_needed(bounded: httpx.Client, upgrade: bytes) -> None:
    """The request is answered as any other, as the last one of its connection."""
    request = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    answer = talk(bounded, [HEAD + b"\r\n" + request * 2000])
    assert read_statuses(answer) == [200, 200]
    assert answer.count(b"connection: close") == 1


def test_trailers_are_no_headers(bounded: httpx.Client) -> None:
    request = CHUNKED + b"2\r\n{}\r\n0\r\nContent-Encoding: br\r\n\r\n"  # a header of this name gets a 415
    assert read_statuses(talk(bounded, [request + HEAD + b"Connection: close\r\n\r\n"])) == [503, 200]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path]]:
    folder = tmp_path_factory.mktemp("limited")
    with running_api(folder, module="tests.app.limited", DIGITS_MODEL_DIR=str(folder)) as client:
        yield client, folder


@pytest.mark.parametrize("start", [b"", HEAD, CHUNKED, b"rubbish\r\n\r\n"])
def test_half_sent_requests_take_no_place_of_others(limited: tuple[httpx.Client, Path], start: bytes) -> None:
    client, folder = limited
    with ExitStack() as stack:
        for _ in range(3 * FILES):
            connection = stack.enter_context(connect(client))
            with suppress(ConnectionError):
                connection.sendall(start)
        for _ in range(20):
            assert httpx.get(client.base_url.join("/livez")).status_code == 200
            assert httpx.get(client.base_url.join("/generate?arch=wgan")).status_code == 200
    (log,) = folder.glob("*.log")
    assert "raise the limit of open files" in log.read_text()


def test_an_idle_connection_is_ended(limited: tuple[httpx.Client, Path]) -> None:
    client, _ = limited
    for parts, statuses in (([], []), ([HEAD + b"\r\n"], [200])):
        began = time.monotonic()
        assert read_statuses(talk(client, parts)) == statuses
        assert time.monotonic() - began < 10


def test_requests_that_are_answered_keep_their_place(limited: tuple[httpx.Client, Path]) -> None:
    """A slow answer is none of those that are closed for others."""
    client, _ = limited
    with connect(client) as slow, ExitStack() as stack:
        slow.sendall(
            b"GET /generate?arch=dcgan&n=1024&scale=8 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        for _ in range(2 * FILES):
            stack.enter_context(connect(client))
        assert eventually(lambda: slow.recv(20), "an answer").startswith(b"HTTP/1.1 200")
