"""Drawing beside many followers of a job's events, half of which read nothing.

The job has 1,000 events of 7.5 KB. Prints the times of one client that
draws one digit at a time: without followers, while they connect and get the history, and while
further events come. Prints the memory of the API's processes, and whether every follower that reads
got every event.

    .venv/bin/python benchmarks/serving/followers.py --followers 1000
"""

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import psutil
from compare import ROOT, Memory
from large import ask_for_small, describe

from app.processes import valkey
from app.processes.valkey import find_free_port
from worker.connections import connect
from worker.jobs import JobState, JobStore, TrainRequest
from worker.recipes import ArchName

HISTORY = 990  # events, before those that come while followers wait
EVENT_BYTES = 7_500  # far more than those of a real job have in the mean
LAST_CHUNK = b"\r\n0\r\n\r\n"


@contextlib.contextmanager
def running() -> Iterator[tuple[str, psutil.Process, JobStore]]:
    """The address of `digits serve`, the parent of its processes, and its jobs."""
    with tempfile.TemporaryDirectory() as folder:
        server, redis_url = valkey.make(Path(folder))
        server.start()
        valkey.wait_until_ready(server, redis_url)
        port = find_free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DIGITS_")},
            "DIGITS_PORT": str(port),
            "DIGITS_REDIS_URL": redis_url,
            "DIGITS_MODEL_DIR": f"{folder}/models",
        }
        api = subprocess.Popen([sys.executable, "-m", "app", "serve"], cwd=ROOT, env=environment)
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                time.sleep(0.1)
            time.sleep(3)  # for the other processes
            yield url, psutil.Process(api.pid), JobStore(connect(redis_url))
        finally:
            api.send_signal(signal.SIGTERM)
            api.wait()
            server.end()


class Follower(asyncio.Protocol):
    """Counts events until the end of the answer; or reads nothing at all."""

    def __init__(self, request: bytes, *, reads: bool) -> None:
        self.events = 0
        self.status = b""
        self.is_complete = False
        self._request = request
        self._reads = reads
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)
        if not self._reads:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.status = self.status or data[9:12]
        found = self._rest + data
        self.events += found.count(b"\nevent: ")
        self._rest = found[-7:]  # shorter than what is counted
        self.is_complete = found.endswith(LAST_CHUNK)


def follow(port: int, job_id: str, count: int, is_over: Event, results: "multiprocessing.Queue[str]") -> None:
    """Connect ``count`` followers, every other one of which reads; tell what they got when it is over."""
    os.nice(19)
    request = f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    async def connect_all() -> None:
        loop = asyncio.get_running_loop()
        followers = []
        for number in range(count):
            follower = Follower(request, reads=number % 2 == 0)
            await loop.create_connection(lambda follower=follower: follower, "127.0.0.1", port)
            followers.append(follower)
        readers = followers[::2]
        while not all(reader.events >= HISTORY for reader in readers):
            await asyncio.sleep(0.1)
        results.put(f"{len(readers)} readers have the history")
        await asyncio.to_thread(is_over.wait)
        for _ in range(300):
            if all(reader.is_complete for reader in readers):
                break
            await asyncio.sleep(0.1)
        counts = {(reader.status.decode(), reader.events, reader.is_complete) for reader in readers}
        results.put(f"(status, events, complete) of the readers: {counts}")

    asyncio.run(connect_all())


def tell(name: str, times: list[float], memory: Memory) -> None:
    print(f"{name:32} n = 1: {describe(times)}; at most {memory.peak:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--followers", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=20, help="of each part")
    arguments = parser.parse_args()
    gc.collect()
    gc.freeze()
    with running() as (url, api, store):
        job, _ = store.create(TrainRequest(arch=ArchName("wgan")))
        claim = store.claim(job.id, "benchmark")
        assert claim
        event = json.dumps({"text": "x" * EVENT_BYTES})
        for first in range(1, HISTORY - 2, 50):
            numbers = range(first, min(first + 50, HISTORY - 1))
            store.report(claim, {}, [(number, "epoch", event) for number in numbers])
        with Memory(api) as memory:
            times = ask_for_small(url, time.monotonic() + arguments.seconds)
        tell("no followers", times, memory)

        is_over, results = multiprocessing.Event(), multiprocessing.Queue()
        process = multiprocessing.Process(
            target=follow, args=(int(url.rpartition(":")[2]), job.id, arguments.followers, is_over, results)
        )
        process.start()
        began = time.monotonic()
        times = []
        with Memory(api) as memory:
            while results.empty():
                times += ask_for_small(url, time.monotonic() + 1)
                store.report(claim)  # or its lease would end
        tell(f"{arguments.followers} connect", times, memory)
        print(f"{results.get()} after {time.monotonic() - began:.0f} s")
        told = HISTORY - 1
        with Memory(api) as memory:
            times = []
            for number in range(told, told + 6):
                store.report(claim, {}, [(number, "epoch", '{"epoch": 1}')])
                times += ask_for_small(url, time.monotonic() + arguments.seconds / 6)
        tell(f"{arguments.followers} follow", times, memory)
        store.finish(claim, JobState.SUCCEEDED, version=1)
        is_over.set()
        print(results.get())
        process.join()
        with Memory(api) as memory:
            times = ask_for_small(url, time.monotonic() + arguments.seconds)
        tell("afterwards", times, memory)


if __name__ == "__main__":
    main()
