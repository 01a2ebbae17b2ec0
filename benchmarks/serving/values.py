"""What digits by value cost, beside plain ones; and what a running data set costs others.

Starts `digits serve`. One client asks for 16 digits: any, sevens, a line of text, and as JSON, in turn. Then it asks
for any 16, alone and beside one who fetches a data set. Prints medians and p99 in milliseconds, and for each format
of a set its time, its size and the most memory of the service.

    .venv/bin/python benchmarks/serving/values.py --requests 500 --per-class 10000
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from app.processes.valkey import find_free_port
from models import versions

KINDS = {  # query and format
    "any 16": ("", "image/png"),
    "digit=7": ("&digit=7", "image/png"),
    "digits=0,1,…": (f"&digits={','.join('0123456789012345')}", "image/png"),
    "text=31415": ("&text=31415", "image/png"),
    "JSON, any 16": ("", "application/json"),
    "JSON, digit=7": ("&digit=7", "application/json"),
}


@contextlib.contextmanager
def running(models: Path, processes: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = find_free_port()
    environment = {**os.environ, "DIGITS_PORT": str(port), "DIGITS_MODEL_DIR": str(models)}
    command = [sys.executable, "-m", "app", "serve", "--processes", str(processes)]
    api = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError):
                http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()
                break
            time.sleep(0.05)
        yield port, api
    finally:
        api.send_signal(signal.SIGTERM)
        api.wait()


class Client:
    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, query: str, accept: str = "image/png", arch: str = "wgan") -> float:
        """Milliseconds."""
        n = "" if "digits=" in query or "text=" in query else "&n=16"
        began = time.perf_counter()
        self.connection.request("GET", f"/generate?arch={arch}{n}{query}", headers={"Accept": accept})
        answer = self.connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        return 1e3 * (time.perf_counter() - began)


def tell(name: str, times: list[float]) -> None:
    print(f"{name:32} {np.median(times):6.2f} ms, p99 {np.percentile(times, 99):6.2f} ms", flush=True)


def compare_kinds(port: int, requests: int) -> None:
    client = Client(port)
    times: dict[str, list[float]] = {name: [] for name in KINDS}
    for turn in range(requests + 20):
        for name, (query, accept) in KINDS.items():
            took = client.ask(query, accept)
            if turn >= 20:
                times[name].append(took)
    for name, took in times.items():
        tell(name, took)
        if name != "any 16":
            pairs = np.array(took) / np.array(times["any 16"])
            print(f"{'':32} {np.median(pairs):6.2f} times any 16")


def compare_neighbours(port: int, api: subprocess.Popen[bytes], requests: int, per_class: int) -> None:
    client = Client(port)
    for format in ("idx", "png", "npz"):
        alone = [client.ask("") for _ in range(requests)]
        beside: list[float] = []
        facts: dict[str, float] = {}
        fetching = threading.Thread(target=fetch, args=(port, api, format, per_class, facts))
        fetching.start()
        while fetching.is_alive():
            beside.append(client.ask(""))
        tell(f"alone, before {format}", alone)
        tell(f"beside a set ({format}), {len(beside)} times", beside)
        print(f"{'':32} p99 {np.percentile(beside, 99) / np.percentile(alone, 99):.2f} times alone")
        print(f"{'':32} {10 * per_class:,} digits: {facts['seconds']:.1f} s, {facts['bytes'] / 1e6:.1f} MB, ", end="")
        print(f"the service had {facts['before']:.0f} MB, then at most {facts['most']:.0f} MB", flush=True)


def fetch(port: int, api: subprocess.Popen[bytes], format: str, per_class: int, facts: dict[str, float]) -> None:
    """In a process of its own, that this one's work does not slow it down."""
    order = json.dumps({"arch": "wgan", "per_class": per_class, "format": format})
    command = ["curl", "-sf", "-o", os.devnull, "-w", "%{size_download}", "-H", "Content-Type: application/json"]
    processes = [psutil.Process(api.pid), *psutil.Process(api.pid).children(recursive=True)]
    facts["before"] = facts["most"] = sum(process.memory_info().rss for process in processes) / 1e6
    began = time.perf_counter()
    curl = subprocess.Popen([*command, "-d", order, f"http://127.0.0.1:{port}/datasets"], stdout=subprocess.PIPE)
    while curl.poll() is None:
        facts["most"] = max(facts["most"], sum(process.memory_info().rss for process in processes) / 1e6)
        time.sleep(0.05)
    facts["seconds"] = time.perf_counter() - began
    assert curl.stdout
    facts["bytes"] = float(curl.stdout.read())


def time_first(requests: int) -> None:
    """The first request for sevens of a version without an index."""
    took = []
    for _ in range(requests):
        with tempfile.TemporaryDirectory() as folder:
            import_version(Path(folder))
            with running(Path(folder), 1) as (port, _):
                took.append(Client(port).ask("&digit=7&version=latest"))
    print(f"{'first digit=7 without an index':32} {', '.join(f'{one:.0f} ms' for one in took)}", flush=True)


def import_version(folder: Path) -> None:
    """A version of weights that no index knows: the shipped ones, changed in the last bits."""
    from models import publishing
    from models.manifest import Origin

    shipped = versions.PRETRAINED / "wgan" / "3"
    manifest, network = versions.read_generator(shipped)
    weights = {name: tensor * (1 + 1e-6) for name, tensor in network.state_dict().items()}
    publishing.publish(
        folder,
        Origin(**manifest.model_dump(include=set(Origin.model_fields))),
        generator=weights,
        discriminator=versions.read_discriminator(shipped),
        samples=versions.read_samples(shipped)[-1:],
        history=versions.read_history(shipped)[-1:],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--per-class", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--first", type=int, default=3)
    arguments = parser.parse_args()
    time_first(arguments.first)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), arguments.processes) as (port, api):
        compare_kinds(port, arguments.requests)
        compare_neighbours(port, api, arguments.requests, arguments.per_class)
