"""The real parts of the service as processes, and helpers that wait for them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx

from app.processes import valkey
from app.processes.child import Child
from app.processes.valkey import find_free_port
from worker.tasks import NICENESS

T = TypeVar("T")

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 60.0  # far more than expected: the machine may be busy


def eventually(
    condition: Callable[[], T],
    what: str,
    seconds: float = PATIENCE_SECONDS,
    poll_seconds: float = POLL_SECONDS,
    progress: Callable[[], object] = lambda: None,
) -> T:
    """Wait for the first true value of ``condition`` and return it.

    The patience of ``seconds`` begins anew whenever ``progress`` gives another value.
    """
    deadline, before = time.monotonic() + seconds, progress()
    while not (value := condition()):
        if (now := progress()) != before:
            deadline, before = time.monotonic() + seconds, now
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(poll_seconds)
    return value


def run_in_threads(work: Callable[[], None], count: int) -> None:
    """Call ``work`` in ``count`` threads at once, and wait for them."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def running_valkey(folder: Path) -> Iterator[tuple[Child, str]]:
    """A Valkey and its URL."""
    server, url = valkey.make(folder)
    server.start()
    try:
        valkey.wait_until_ready(server, url)
        yield server, url
    finally:
        assert server.process is not None
        server.process.send_signal(signal.SIGCONT)  # a test may have frozen it
        server.end()


class Process:
    """``digits …``, or another module with a command line. Its output goes to a file."""

    def __init__(self, folder: Path, *arguments: str, module: str = "app", **environment: str) -> None:
        self.log = folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIGITS_")}
        with self.log.open("w") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**inherited, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with suppress(OSError):  # its session gets the priority of the tests: see tests/conftest.py
            Path(f"/proc/{self.popen.pid}/autogroup").write_text(str(NICENESS - 1))

    @property
    def output(self) -> str:
        return self.log.read_text()

    def end(self, number: int = signal.SIGTERM, seconds: float = PATIENCE_SECONDS) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            raise AssertionError(f"did not end within {seconds} s:\n{self.output}") from None


@contextmanager
def running(folder: Path, *arguments: str, module: str = "app", **environment: str) -> Iterator[Process]:
    """Run ``digits …`` and end it afterwards."""
    process = Process(folder, *arguments, module=module, **environment)
    try:
        yield process
    finally:
        process.end()


@contextmanager
def running_api(folder: Path, module: str = "app", **environment: str) -> Iterator[httpx.Client]:
    """Run ``digits serve`` on a free port, in one process unless told otherwise; yield a client for it."""
    port = environment.setdefault("DIGITS_PORT", str(find_free_port()))
    environment.setdefault("DIGITS_API_PROCESSES", "1")
    with (
        running(folder, "serve", module=module, **environment) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client,
    ):
        eventually(lambda: process.popen.poll() is not None or answers(client), "the API answers")
        assert process.popen.poll() is None, process.output
        yield client


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/livez").status_code == 200
    except httpx.TransportError:
        return False
