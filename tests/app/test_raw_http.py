"""Ambiguous, broken and hostile clients over raw sockets: each gets its due, and the others lose nothing.

A request is ambiguous if a proxy in front could see another end of it than the service does. Then what one client sends
as a body could become the request of another (smuggling). Such a request must be refused, and its connection closed.
"""

import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from tests.app.test_protocol import connect, read_statuses
from tests.processes import running_api

HOST = b"Host: localhost\r\n"
HEAD = b"POST /generate?arch=wgan&n=1 HTTP/1.1\r\n" + HOST
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
HIDDEN = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"  # what must never be taken for a request

AMBIGUOUS = {
    "both lengths, short": HEAD + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "both lengths, long": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + HIDDEN,
    "two lengths": HEAD + b"Content-Length: 0\r\nContent-Length: 48\r\n\r\n" + HIDDEN,
    "a list of lengths": HEAD + b"Content-Length: 0, 48\r\n\r\n" + HIDDEN,
    "a length with a sign": HEAD + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "a hexadecimal length": HEAD + b"Content-Length: 0x0\r\n\r\n" + HIDDEN,
    "a length in two words": HEAD + b"Content-Length: 0 48\r\n\r\n" + HIDDEN,
    "an empty length": HEAD + b"Content-Length:\r\n\r\n" + HIDDEN,
    "a length beyond 64 bits": HEAD + b"Content-Length: 99999999999999999999\r\n\r\n" + HIDDEN,
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + HIDDEN,
    "chunked, but not last": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two codings": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a control character": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a folded line": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a null byte": HEAD + b"X: a\0b\r\n\r\n" + HIDDEN,
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + b"\n" + HIDDEN,
    "a bare carriage return": HEAD + b"X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "line feeds between chunks": CHUNKED + b"0\n\n" + HIDDEN,
    "a line feed in an extension": CHUNKED + b"1;\nX\r\n0\r\n\r\n" + HIDDEN,
    "a chunk beyond 64 bits": CHUNKED + b"fffffffffffffffff0\r\n" + HIDDEN,
    "a negative chunk": CHUNKED + b"-1\r\n" + HIDDEN,
    "a chunk with a prefix": CHUNKED + b"0x0\r\n\r\n" + HIDDEN,
    "a chunk with a space": CHUNKED + b"0 \r\n\r\n" + HIDDEN,
    "two versions": b"GET /livez HTTP/1.1 HTTP/1.1\r\n" + HOST + b"\r\n" + HIDDEN,
    "a space before a name": b"GET /livez HTTP/1.1\r\n " + HOST + b"\r\n" + HIDDEN,
    "no name": HEAD + b": x\r\n\r\n" + HIDDEN,
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("raw")
    with running_api(folder, DIGITS_MODEL_DIR=str(folder)) as client:
        yield client
    (log,) = folder.glob("serve-*.log")
    assert "Traceback" not in log.read_text()


@contextmanager
def drawing_meanwhile(client: httpx.Client) -> Iterator[None]:
    """Somebody else draws all the time, and every picture must come."""
    over, statuses = threading.Event(), list[int]()

    def draw() -> None:
        with httpx.Client(base_url=client.base_url, timeout=30) as other:
            while not over.is_set() or not statuses:
                statuses.append(other.post("/generate?arch=dcgan&n=4").status_code)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert len(statuses) > 1
    assert set(statuses) == {200}


def receive_all(connection: socket.socket) -> bytes:
    """Everything until the service closes the connection."""
    answer = b""
    with suppress(ConnectionError):
        while received := connection.recv(65_536):
            answer += received
    return answer


@pytest.mark.parametrize("shape", AMBIGUOUS)
def test_an_ambiguous_request_is_refused_with_all_that_follows(raw: httpx.Client, shape: str) -> None:
    with connect(raw) as connection:
        connection.sendall(AMBIGUOUS[shape])
        answer = receive_all(connection)  # it times out unless the service closes the connection
    assert read_statuses(answer) == [400]
    assert b"smuggled" not in answer


def test_a_body_that_is_not_asked_for_is_no_request(raw: httpx.Client) -> None:
    """A GET may have a body, and its length is plain: it is skipped."""
    head = b"GET /livez HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(HIDDEN)
    last = b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    with connect(raw) as connection:
        connection.sendall(head + HIDDEN + last)
        assert read_statuses(receive_all(connection)) == [200, 200]


SEEDS = [
    b"GET /generate?arch=wgan&n=2&seed=1 HTTP/1.1\r\n" + HOST + b"Accept: image/webp\r\n\r\n",
    b"POST /datasets HTTP/1.1\r\n"
    + HOST
    + b'Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{"arch":"wgan"}',
    CHUNKED + b"4\r\nabcd\r\n0\r\nX: y\r\n\r\n",
    b"HEAD /models/wgan HTTP/1.1\r\n" + HOST + b"If-None-Match: *\r\nConnection: close\r\n\r\n",
]
PARTS = [
    b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b":",
    b"%00",
    b"%",
    b"?",
    b"&",
    b"\xff",
    b"/../",
    b"HTTP/1.1",
    b"0",
    b"\r\n\r\n",
    b"A" * 9_000,
]


def mutate(chance: random.Random) -> bytes:
    """A request with some parts put in, taken away or doubled."""
    request = bytearray(chance.choice(SEEDS))
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(request) + 1)
        kind = chance.randrange(3)
        if kind == 0:
            request[at:at] = chance.choice(PARTS)
        elif kind == 1:
            del request[at : at + chance.randint(1, 8)]
        else:
            request[at:at] = request[at : at + chance.randint(1, 40)]
    return bytes(request)


def test_no_request_whatever_is_an_error_of_the_service(raw: httpx.Client) -> None:
    chance, seen = random.Random(1), set[int]()
    with drawing_meanwhile(raw):
        for _ in range(600):
            request = mutate(chance)
            with connect(raw) as connection:
                with suppress(ConnectionError):
                    connection.sendall(request)
                    connection.shutdown(socket.SHUT_WR)  # nothing more comes
                statuses = read_statuses(receive_all(connection))
            assert all(status < 500 for status in statuses), request
            seen |= set(statuses)
    assert {200, 400, 404, 422} <= seen


def test_others_are_answered_beside_clients_that_send_or_read_nothing_or_slowly(raw: httpx.Client) -> None:
    """1,000 idle ones, 50 that send a byte now and then, 50 that ask for large answers and read none of them."""
    slow = b"POST /generate?arch=wgan HTTP/1.1\r\n" + HOST
    large = b"POST /generate?arch=vanilla&n=1024&scale=4 HTTP/1.1\r\n" + HOST + b"\r\n"
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(raw)) for _ in range(1_000)]
        senders = [stack.enter_context(connect(raw)) for _ in range(50)]
        readers = [stack.enter_context(connect(raw)) for _ in range(50)]
        for reader in readers:
            reader.sendall(large)
        with drawing_meanwhile(raw):
            began = time.monotonic()
            for byte in slow:
                for sender in senders:
                    with suppress(ConnectionError):
                        sender.sendall(bytes([byte]))
                time.sleep(0.02)
            assert time.monotonic() - began > 1
        for connection in random.Random(1).sample(idle, 20):  # they still have their place
            connection.sendall(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
            assert re.match(rb"HTTP/1\.1 200", connection.recv(1024))
