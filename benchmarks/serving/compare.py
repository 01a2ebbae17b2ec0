"""This service compared with common model servers, on the same cores, with the same weights and the same load.

Every contender answers POST /generate with a PNG grid of n digits of the shipped dcgan. Each is
written as its documentation recommends, with two worker processes, and with batching if it has it.
In each round every contender is started, checked, put under load cell by cell, and ended. The figures
are medians over the rounds. Needs wrk (Debian: apt install wrk). `make bench` installs the rest.

    make bench
    .venv/bin/python benchmarks/serving/compare.py --peers /tmp/peers --rounds 1 --n 16 --clients 32
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch
from PIL import Image

from app.processes.valkey import find_free_port
from models import classifier

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
START_SECONDS = 120.0


@dataclass(frozen=True)
class Contender:
    name: str
    command: str  # {python}: that of the peers' environment, {bin}: the folder of that python, {port}
    path: str = "/generate?n={n}"
    body: str = ""  # JSON
    cwd: Path = HERE
    environment: dict[str, str] = field(default_factory=dict)


CONTENDERS = (
    Contender("digits", f"{sys.executable} -m app serve --port {{port}}", "/generate?arch=dcgan&n={n}", cwd=ROOT),
    Contender("FastAPI", "{python} peer_fastapi.py {port}"),
    Contender("LitServe", "{python} peer_litserve.py {port}", "/generate", '{{"n": {n}}}'),
    Contender("BentoML", "{bin}/bentoml serve peer_bentoml_plain:Digits --port {port}", "/generate", '{{"n": {n}}}'),
    Contender("BentoML batching", "{bin}/bentoml serve peer_bentoml:Digits --port {port}", "/generate", '{{"n": {n}}}'),
    Contender("Ray Serve", "{python} peer_ray.py {port}"),
)


@dataclass
class Cell:
    """The figures of one contender under one load, one value per round."""

    rates: list[float] = field(default_factory=list)  # requests/s
    p50: list[float] = field(default_factory=list)  # ms
    p99: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MB, of all its processes, shared pages counted once
    busy: int = 0  # answers 429
    failed: int = 0  # other answers, or no answer


def side(n: int, scale: int = 1) -> int:
    """The side of a grid in pixels; all grids are square."""
    return math.isqrt(n) * (28 * scale + 2) - 2


@contextlib.contextmanager
def started(contender: Contender, peers: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The contender's process and its address, once it answers. Ends it afterwards, with all that it started."""
    port = find_free_port()
    command = contender.command.format(python=peers / "bin" / "python", bin=peers / "bin", port=port)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DIGITS_")},
        "PYTHONPATH": f"{HERE}:{ROOT}",
        "DO_NOT_TRACK": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_USAGE_STATS_ENABLED": "0",
        **contender.environment,
    }
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command.split(), cwd=contender.cwd, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + START_SECONDS
            while not answers(contender, url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"{contender.name} does not start:\n{log.read()[-4000:]}")
                time.sleep(0.1)
            yield psutil.Process(process.pid), url
        finally:
            family = [process.pid]
            with contextlib.suppress(psutil.Error):  # it has ended
                family += [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


def ask(contender: Contender, url: str, n: int) -> httpx.Response:
    body = contender.body.format(n=n)
    headers = {"Content-Type": "application/json"} if body else {}
    return httpx.post(url + contender.path.format(n=n), content=body, headers=headers, timeout=60)


def answers(contender: Contender, url: str) -> bool:
    try:
        return ask(contender, url, 1).status_code == 200
    except httpx.TransportError:
        return False


def check(contender: Contender, url: str, n: int, C: classifier.Classifier) -> None:
    """Decode a few answers: they must be grids, and the classifier must be sure of their digits."""
    for _ in range(3):
        answer = ask(contender, url, n).raise_for_status()
        pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert pixels.shape == (side(n), side(n)), (contender.name, n, pixels.shape)
        columns = math.isqrt(n)
        cells = [pixels[30 * row :, 30 * column :][:28, :28] for row in range(columns) for column in range(columns)]
        _, probabilities = classifier.classify(C, torch.from_numpy(np.stack(cells)))
        confidence = probabilities.amax(dim=1).mean().item()
        assert confidence > (0.85 if n >= 16 else 0.3), (contender.name, n, confidence)


class Memory:
    """The peak memory of a process and its children while it watches, in MB (PSS: shared pages counted once)."""

    def __init__(self, process: psutil.Process) -> None:
        self.peak = 0.0
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            total = 0
            for process in (self._process, *self._process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().pss
            self.peak = max(self.peak, total / 2**20)


def load(contender: Contender, url: str, n: int, clients: int, seconds: float, scale: int = 1) -> list[float]:
    """Run wrk; return the numbers of good, busy and bad answers and of errors, seconds, p50 and p99 in ms."""
    result = subprocess.run(
        ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", HERE / "load.lua",
         url + contender.path.format(n=n)],
        env={**os.environ, "SIDE": str(side(n, scale)), "BODY": contender.body.format(n=n)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = next(line for line in result.stdout.splitlines() if line.startswith("FIGURES"))
    return [float(value) for value in line.split()[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="the virtual environment with requirements.txt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="per cell")
    parser.add_argument("--n", type=int, nargs="+", default=[1, 16, 64, 256], help="square numbers")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--only", nargs="+", help="names of contenders")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is missing: apt install wrk")
    contenders = [one for one in CONTENDERS if not arguments.only or one.name in arguments.only]
    C = classifier.load()
    cells: dict[tuple[str, int, int], Cell] = {}
    began = time.monotonic()
    for number, contender in itertools.product(range(1, arguments.rounds + 1), contenders):
        print(f"{time.monotonic() - began:6.0f} s  round {number}: {contender.name}", file=sys.stderr, flush=True)
        with started(contender, arguments.peers) as (process, url):
            for n in arguments.n:
                check(contender, url, n, C)
                for clients in arguments.clients:
                    load(contender, url, n, clients, 1)  # warm
                    with Memory(process) as memory:
                        good, busy, bad, errors, seconds, p50, p99 = load(contender, url, n, clients, arguments.seconds)
                    cell = cells.setdefault((contender.name, n, clients), Cell())
                    for values, value in (
                        (cell.rates, good / seconds), (cell.p50, p50), (cell.p99, p99), (cell.memory, memory.peak)
                    ):  # fmt: skip
                        values.append(value)
                    cell.busy += int(busy)
                    cell.failed += int(bad + errors)
                check(contender, url, n, C)
    report(cells, contenders, arguments)


def report(cells: dict[tuple[str, int, int], Cell], contenders: list[Contender], arguments: argparse.Namespace) -> None:
    listed = subprocess.run(
        [arguments.peers / "bin" / "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    versions = {item["name"]: item["version"] for item in json.loads(listed.stdout)}
    named = ("torch", "fastapi", "uvicorn", "litserve", "bentoml", "ray", "pillow")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},")
    print("peers: " + ", ".join(f"{name} {versions.get(name)}" for name in named) + f"; here torch {version('torch')}")
    print(f"medians of {arguments.rounds} rounds of {arguments.seconds} s\n")
    print("| n | clients | server | requests/s | p50 ms | p99 ms | memory MB | 429 | failed |")
    print("|--:|--:|---|--:|--:|--:|--:|--:|--:|")
    for n, clients in itertools.product(arguments.n, arguments.clients):
        for contender in contenders:
            cell = cells[contender.name, n, clients]
            rate, p50, p99 = (statistics.median(values) for values in (cell.rates, cell.p50, cell.p99))
            print(
                f"| {n} | {clients} | {contender.name} | {rate:.0f} | {p50:.1f} | {p99:.1f} "
                f"| {max(cell.memory):.0f} | {cell.busy} | {cell.failed} |"
            )


if __name__ == "__main__":
    main()
