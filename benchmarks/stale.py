"""How long does a job wait behind the wake-ups of jobs that were canceled while they were queued?

For 0, 20 and 60 of them: queues and cancels so many jobs at a worker that has nothing to do, then queues
one more. Prints the seconds until that one has started.

    .venv/bin/python benchmarks/stale.py
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from app.processes import valkey
from worker.broker import Publisher
from worker.connections import connect
from worker.jobs import Job, JobStore, TrainRequest
from worker.recipes import ArchName

COUNTS = (0, 20, 60)
REST_SECONDS = 10.0  # for the worker's next process to be ready


def queue(store: JobStore, publisher: Publisher) -> Job:
    job, _ = store.create(TrainRequest(arch=ArchName("vanilla")))
    publisher.wake(job.id)
    return job


def measure(store: JobStore, publisher: Publisher, canceled: int) -> float:
    """The seconds from queueing a job to its start, behind the wake-ups of ``canceled`` others."""
    jobs = [store.create(TrainRequest(arch=ArchName("vanilla")))[0] for _ in range(canceled)]
    for job in jobs:
        store.cancel(job.id)
        publisher.wake(job.id)
    began, job = time.monotonic(), queue(store, publisher)
    while not ((now := store.get(job.id)) and now.started_at):
        time.sleep(0.02)
    seconds = time.monotonic() - began
    store.cancel(job.id)
    time.sleep(REST_SECONDS)
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server, url = valkey.make(Path(folder))
        server.start()
        valkey.wait_until_ready(server, url)
        store, publisher = JobStore(connect(url)), Publisher(url)
        environment = {**os.environ, "DIGITS_REDIS_URL": url, "DIGITS_MODEL_DIR": f"{folder}/models"}
        with Path(folder, "log").open("w") as log:
            worker = subprocess.Popen([sys.executable, "-m", "app", "worker"], env=environment, stdout=log, stderr=log)
        try:
            time.sleep(REST_SECONDS)
            for canceled in COUNTS:
                print(f"{canceled:3} canceled: {measure(store, publisher, canceled):.1f} s", flush=True)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait()
            server.end()


if __name__ == "__main__":
    main()
