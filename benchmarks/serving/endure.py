"""The whole service under load for minutes, with a training job on the same cores.

Starts `digits up` in a directory of its own, and prints three things:

1. What drawing (n = 16, 32 clients) and training cost each other.
2. 128 clients beside training, minute by minute: requests/s, p50, p99, 429s, failures, the memory of the
   API's processes and its slope, and the time that /livez took.
3. 64 clients that all ask for 1,024 digits all the time: speed, and the memory that they cost.

Needs wrk (Debian: apt install wrk).

    .venv/bin/python benchmarks/serving/endure.py --minutes 10
"""

import argparse
import contextlib
import gc
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
from compare import ROOT, Contender, Memory, load

from app.processes.valkey import find_free_port

PROBE_SECONDS = 0.1
SERVICE = Contender("digits", "", "/generate?arch=dcgan&n={n}")


@contextlib.contextmanager
def running() -> Iterator[tuple[str, psutil.Process]]:
    """The address of `digits up`, and the parent of the API's processes."""
    with tempfile.TemporaryDirectory() as folder:
        port = find_free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DIGITS_")},
            "DIGITS_PORT": str(port),
            "DIGITS_STATE_DIR": folder,
            "DIGITS_MODEL_DIR": f"{folder}/models",
        }
        with Path(folder, "log").open("w") as log:
            up = subprocess.Popen(
                [sys.executable, "-m", "app", "up"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                time.sleep(0.1)
            else:
                raise SystemExit("the service does not start:\n" + Path(folder, "log").read_text())
            children = psutil.Process(up.pid).children()
            yield url, next(child for child in children if "serve" in child.cmdline())
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait()


class Probe:
    """Asks /livez on a new connection ten times a second; keeps the seconds that each answer took."""

    def __init__(self, url: str) -> None:
        self.seconds: list[float] = []
        self._url = f"{url}/livez"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Probe":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
            while not self._stop.wait(PROBE_SECONDS):
                began = time.perf_counter()
                client.get(self._url).raise_for_status()
                self.seconds.append(time.perf_counter() - began)


def steps_a_second(url: str, job: str, seconds: float) -> float:
    """The steps per second of a running training job."""
    before = steps(url, job)
    began = time.monotonic()
    time.sleep(seconds)
    return (steps(url, job) - before) / (time.monotonic() - began)


def steps(url: str, job: str) -> int:
    """The steps that a job has taken."""
    found = httpx.get(f"{url}/jobs/{job}", timeout=60).json()
    return int((found["epoch"] - 1) * found["steps"] + found["step"]) if found["step"] else 0


def train(url: str) -> str:
    job = str(httpx.post(f"{url}/train", json={"arch": "dcgan", "epochs": 1000}).json()["id"])
    while not steps(url, job):
        time.sleep(0.5)
    return job


def cancel(url: str, job: str) -> None:
    httpx.delete(f"{url}/jobs/{job}")
    while httpx.get(f"{url}/jobs/{job}").json()["ended_at"] is None:
        time.sleep(0.2)


def cost(url: str, rounds: int, seconds: int) -> None:
    """Print what drawing and training cost each other, measured in turns."""
    drawn: dict[str, list[float]] = {"alone": [], "beside training": []}
    trained: dict[str, list[float]] = {"alone": [], "beside drawing": []}
    for _ in range(rounds):
        good, _, _, _, took, *_ = load(SERVICE, url, 16, 32, seconds)
        drawn["alone"].append(good / took)
        job = train(url)
        trained["alone"].append(steps_a_second(url, job, seconds))
        before, began = steps(url, job), time.monotonic()
        good, _, _, _, took, *_ = load(SERVICE, url, 16, 32, seconds)
        trained["beside drawing"].append((steps(url, job) - before) / (time.monotonic() - began))
        drawn["beside training"].append(good / took)
        cancel(url, job)
    for name, figures in (("drawing, requests/s", drawn), ("training, steps/s", trained)):
        print(name + ": " + ", ".join(f"{how} {statistics.median(values):.1f}" for how, values in figures.items()))


def endure(url: str, api: psutil.Process, minutes: int) -> None:
    job = train(url)
    memories, totals = [], np.zeros(4)
    print("minute  requests/s   p50 ms   p99 ms   429  failed     MB  livez p99 ms    max")
    for minute in range(1, minutes + 1):
        with Probe(url) as probe, Memory(api) as memory:
            *counts, seconds, p50, p99 = load(SERVICE, url, 16, 128, 60)
        totals += counts
        memories.append(memory.peak)
        good, busy, bad, errors = counts
        livez = [1e3 * one for one in probe.seconds]
        print(
            f"{minute:6}{good / seconds:12.0f}{p50:9.1f}{p99:9.1f}{busy:6.0f}{bad + errors:8.0f}{memory.peak:7.0f}"
            f"{np.percentile(livez, 99):14.1f}{max(livez):7.1f}",
            flush=True,
        )
    slope = np.polyfit(range(minutes), memories, 1)[0] if minutes > 1 else 0.0
    good, busy, bad, errors = totals
    print(f"answers {good:.0f}, 429 {busy:.0f}, failed {bad + errors:.0f}; memory {slope:+.2f} MB a minute")
    print(f"training went on meanwhile: {steps(url, job)} steps")
    cancel(url, job)


def largest(url: str, api: psutil.Process, seconds: int) -> None:
    for scale in (1, 8):
        one = Contender("digits", "", f"/generate?arch=dcgan&n={{n}}&scale={scale}")
        with Memory(api) as memory, Probe(url) as probe:
            good, busy, bad, errors, took, p50, p99 = load(one, url, 1024, 64, seconds, scale)
        print(
            f"n = 1,024, scale {scale}, 64 clients: {good / took:.1f} requests/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms, "
            f"429 {busy:.0f}, failed {bad + errors:.0f}, at most {memory.peak:.0f} MB, "
            f"livez at most {1e3 * max(probe.seconds):.1f} ms",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    gc.collect()
    gc.freeze()  # each collection that searched torch's objects took 0.16 s and looked like a slow /livez
    with running() as (url, api):
        cost(url, arguments.rounds, 8)
        endure(url, api, arguments.minutes)
        largest(url, api, 20)


if __name__ == "__main__":
    main()
