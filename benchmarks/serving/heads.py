"""Answers beside clients that send requests without end, or half of one.

Starts `digits serve` in one process with 200 file descriptors. A client asks /livez on new connections:
alone; beside clients that send a header without end; beside 600 connections with half a request each.
Prints its times and failures. ``--code`` names another checkout, to compare.

    .venv/bin/python benchmarks/serving/heads.py --seconds 10
"""

import argparse
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from app.processes.valkey import find_free_port

FILES = 200
SENDERS = 4
HALVES = 3 * FILES
START = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "


@contextlib.contextmanager
def running(code: Path) -> Iterator[int]:
    """The port of `digits serve`, of the checkout ``code``."""
    port = find_free_port()
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w") as log:
        environment = {**os.environ, "DIGITS_PORT": str(port), "DIGITS_MODEL_DIR": folder, "PYTHONPATH": str(code)}
        # --workers is the old name of --processes, which older checkouts know, too
        command = ["prlimit", f"--nofile={FILES}:{FILES}", sys.executable, "-m", "app", "serve", "--workers", "1"]
        api = subprocess.Popen(command, cwd=code, env=environment, stdout=log, stderr=log)
        try:
            while ask(port) is None:
                time.sleep(0.1)
            yield port
        finally:
            api.send_signal(signal.SIGTERM)
            api.wait()


def ask(port: int) -> float | None:
    """The milliseconds of one answer; None if there is none."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/livez")
        connection.getresponse().read()
        return 1e3 * (time.perf_counter() - began)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def send_without_end(port: int, until: float) -> None:
    piece = b"a" * 2**20
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(START)
            for _ in range(100):
                connection.sendall(piece)


def measure(name: str, port: int, seconds: float) -> None:
    answers = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answers.append(ask(port))
        time.sleep(0.01)
    times = [answer for answer in answers if answer is not None] or [float("nan")]
    print(
        f"{name:28} {len(answers):5} asked, {answers.count(None):5} without an answer; "
        f"p50 {np.percentile(times, 50):.1f} ms, p99 {np.percentile(times, 99):.1f} ms, max {max(times):.0f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each part")
    parser.add_argument("--code", type=Path, default=Path(__file__).parents[2], help="a checkout")
    arguments = parser.parse_args()
    with running(arguments.code) as port:
        measure("alone", port, arguments.seconds)
        until = time.monotonic() + arguments.seconds
        senders = [threading.Thread(target=send_without_end, args=(port, until), daemon=True) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        measure(f"{SENDERS} headers without end", port, arguments.seconds)
    with running(arguments.code) as port, contextlib.ExitStack() as stack:
        for _ in range(HALVES):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(OSError):
                connection.sendall(START)
        measure(f"{HALVES} half requests", port, arguments.seconds)


if __name__ == "__main__":
    main()
