"""What jobs and limits take of a Redis: memory, and time of its one core.

Starts a Valkey without a file, and calls what API and workers call. Prints, for queued jobs, the memory of each; for
whole jobs (queued, claimed, reported 150 times, ended) and for limited requests, Valkey's CPU time of each.

    .venv/bin/python benchmarks/records.py
"""

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from limits import RateLimitItemPerSecond
from redis import Redis

from app.limiter import REQUESTS, Limiter
from app.processes import valkey
from worker.connections import connect
from worker.jobs import JobState, JobStore, TrainRequest
from worker.recipes import ArchName

QUEUED, WHOLE, LIMITED = 1000, 50, 5000
EPOCHS = 150  # of the recipe of wgan
REQUEST = TrainRequest(arch=ArchName("wgan"))
FIELDS = {"epoch": 1, "d_loss": -2.612, "g_loss": -4.828, "images_per_second": 941.0, "eta_seconds": 1.5}


def read_cpu(redis: Redis) -> float:
    found = redis.info("cpu")
    return float(found["used_cpu_user"] + found["used_cpu_sys"])


def measure(redis: Redis, what: str, count: int, work: Callable[[], None]) -> None:
    before, memory = read_cpu(redis), redis.info("memory")["used_memory"]
    work()
    micros = (read_cpu(redis) - before) / count * 1e6
    size = (redis.info("memory")["used_memory"] - memory) / count
    print(f"{count:,} {what}: {micros:,.0f} µs of the CPU and {size:,.0f} bytes each")


def run_whole(store: JobStore) -> None:
    for _ in range(WHOLE):
        job, _ = store.create(REQUEST)
        claim = store.claim(job.id, "benchmark")
        assert claim
        for epoch in range(1, EPOCHS + 1):
            facts = json.dumps({**FIELDS, "epoch": epoch, "seen_images": epoch * 60_000})
            picture = json.dumps({"epoch": epoch, "png": "x" * 7_600})
            store.report(claim, FIELDS, [(2 * epoch - 1, "epoch", facts), (2 * epoch, "sample", picture)])
        store.finish(claim, JobState.SUCCEEDED)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server, url = valkey.make(Path(folder))
        server.start()
        try:
            valkey.wait_until_ready(server, url)
            redis = connect(url)
            store = JobStore(redis)
            measure(redis, "queued jobs", QUEUED, lambda: [store.create(REQUEST) for _ in range(QUEUED)] and None)
            redis.flushdb()
            measure(redis, f"whole jobs of {EPOCHS} epochs", WHOLE, lambda: run_whole(store))
            limiter = Limiter({REQUESTS: RateLimitItemPerSecond(1_000_000)}, url)

            async def spend() -> None:
                for number in range(LIMITED):
                    await limiter.spend(f"192.0.2.{number % 250}", REQUESTS)

            measure(redis, "limited requests", LIMITED, lambda: asyncio.run(spend()))
            limiter.close()
        finally:
            server.end()


if __name__ == "__main__":
    main()
