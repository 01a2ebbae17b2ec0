"""Hosts that share a Valkey and a model directory: workers and an API, in which tests cause faults."""

import contextlib
import hashlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from redis.exceptions import RedisError

from app.processes import valkey
from app.processes.child import Child
from models import versions
from models.manifest import GENERATOR, read_manifest
from tests.processes import PATIENCE_SECONDS, Process, eventually, running_api
from worker.broker import Publisher
from worker.connections import connect
from worker.jobs import Job, JobState, JobStore, TrainRequest

NO_APPEND_ONLY_FILE = "no append-only file"

_MODULE = "tests.system.host"


class Hosts:
    """A Valkey, and workers and APIs on request, with the ``changes`` of ``tests.system.host``."""

    def __init__(self, folder: Path, changes: str, stack: ExitStack) -> None:
        self.folder, self.model_dir = folder, folder / "models"
        self.changes = changes
        self._stack = stack
        self.valkey: Child
        self.valkey, self.url = valkey.make(folder)
        if NO_APPEND_ONLY_FILE in changes:
            self.valkey.stdin = self.valkey.stdin.replace("appendonly yes", "appendonly no")
        self.workers: list[Process] = []
        self.start_valkey()
        self.redis = connect(self.url)
        self.store = JobStore(self.redis)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DIGITS_REDIS_URL": self.url,
            "DIGITS_MODEL_DIR": str(self.model_dir),
            "DIGITS_DEVICE": "cpu",
            "CHANGES_FOR_TESTS": self.changes.replace(NO_APPEND_ONLY_FILE, ""),
        }

    def start_valkey(self) -> None:
        self.valkey.start()
        valkey.wait_until_ready(self.valkey, self.url)

    def kill_valkey(self) -> None:
        assert self.valkey.process is not None
        self.valkey.process.kill()
        self.valkey.process.wait()

    def signal_valkey(self, number: int) -> None:
        assert self.valkey.process is not None
        self.valkey.process.send_signal(number)

    def worker(self) -> Process:
        """Start another worker; return it when it is ready for jobs."""
        process = Process(self.folder, "worker", module=_MODULE, **self.environment)
        self.workers.append(process)
        eventually(lambda: "ready" in process.output or process.popen.poll() is not None, "the worker is ready")
        if process.popen.poll() is not None:  # no AssertionError, which unprotected tests expect
            raise RuntimeError(process.output)
        return process

    def api(self, **environment: str) -> httpx.Client:
        return self._stack.enter_context(running_api(self.folder, module=_MODULE, **self.environment, **environment))

    def train(self, **request: Any) -> str:
        """Queue a job as ``POST /train`` does, but without an API."""
        defaults = {"arch": "vanilla", "recipe": "book", "epochs": 2, "seed": 1}
        job, _ = self.store.create(TrainRequest.model_validate({**defaults, **request}))
        publisher = Publisher(self.url)
        publisher.wake(job.id)
        publisher.close()
        return job.id

    def job(self, job_id: str) -> Job:
        job = self.store.get(job_id)
        assert job is not None
        return job

    def wait_for_step(self, job_id: str, epoch: int = 1) -> Job:
        def reached() -> Job | None:
            job = self.job(job_id)
            assert job.ended_at is None, (job, self.output)
            running = job.state is JobState.RUNNING and job.step and job.epoch and job.epoch >= epoch
            return job if running else None

        found = eventually(reached, f"it trains:\n{self.output}", progress=lambda: self.progress(job_id))
        assert found is not None
        return found

    def wait_for_end(self, job_id: str, seconds: float = 2 * PATIENCE_SECONDS) -> Job:
        def ended() -> bool:
            with contextlib.suppress(RedisError):
                return self.job(job_id).ended_at is not None
            return False

        eventually(ended, f"the job ends:\n{self.output}", seconds, progress=lambda: self.progress(job_id))
        return self.job(job_id)

    def progress(self, job_id: str) -> object:
        """What changes while a job goes on, however slowly."""
        with contextlib.suppress(RedisError):
            job = self.job(job_id)
            return job.state, job.attempt, job.epoch, job.step
        return None

    def kinds(self, job_id: str) -> list[str]:
        """The kinds of a job's events, without those of every epoch."""
        events: Any = self.redis.xrange(f"digits:events:{job_id}")
        return [e["kind"] for _, e in events if e["kind"] not in ("epoch", "sample", "metric")]

    def versions(self, job_id: str) -> list[Path]:
        """The versions that a job has made; each of them must be whole."""
        found = []
        for folder in versions.find_folders(self.model_dir).values():
            if read_manifest(folder).job == job_id:
                versions.read_generator(folder)
                found.append(folder)
        return found

    @property
    def output(self) -> str:
        return "\n".join(f"--- {process.popen.pid}\n{process.output}" for process in self.workers)


def trainer(worker: Process) -> psutil.Process:
    """The training process of a worker."""
    children = psutil.Process(worker.popen.pid).children(recursive=True)
    return max(children, key=lambda child: child.memory_info().rss)


def kill(worker: Process) -> None:
    """Kill the whole worker at once, as if its host lost power."""
    os.killpg(worker.popen.pid, signal.SIGKILL)
    worker.popen.wait()


def weights(folder: Path) -> str:
    """The SHA-256 of a version's generator."""
    return hashlib.sha256((folder / GENERATOR).read_bytes()).hexdigest()


@contextmanager
def running_hosts(folder: Path, changes: str) -> Iterator[Hosts]:
    with ExitStack() as stack:
        hosts = Hosts(folder, changes, stack)
        try:
            yield hosts
        finally:
            for worker in hosts.workers:
                if worker.popen.poll() is None:
                    os.killpg(worker.popen.pid, signal.SIGCONT)
                    kill(worker)
            stack.close()
            if hosts.valkey.process:  # a test may have frozen or killed it
                hosts.signal_valkey(signal.SIGCONT)
                hosts.valkey.end()
