"""The whole service for the tests of this folder: ``digits up`` in a directory of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from app.valkey import free_port
from tests.processes import PATIENCE_SECONDS, Process, answers, eventually, running

PARTS = {"valkey": "valkey-server", "worker": "app.cli worker", "api": "app.cli serve"}


@dataclass
class Service:
    """A running ``digits up``."""

    folder: Path
    process: Process
    api: httpx.Client
    environment: dict[str, str]

    @property
    def output(self) -> str:
        return self.process.output

    def part(self, name: str) -> psutil.Process | None:
        """The running child of this name."""
        for child in psutil.Process(self.process.popen.pid).children():
            try:
                if PARTS[name] in " ".join(child.cmdline()):
                    return child
            except psutil.Error:  # it has just ended
                continue
        return None

    def everything(self) -> list[psutil.Process]:
        supervisor = psutil.Process(self.process.popen.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def ready(self) -> bool:
        return answers(self.api) and self.api.get("/readyz").json()["redis"] == "ok"

    def train(self, **request: Any) -> str:
        answer = self.api.post("/train", json=request)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.api.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait_for(self, job_id: str, state: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert job["state"] == state or job["ended_at"] is None, (job, self.output)
            return job if job["state"] == state else None

        found = eventually(reached, f"job is {state}:\n{self.output}", seconds)
        assert found is not None
        return found


@contextmanager
def running_service(folder: Path) -> Iterator[Service]:
    """``digits up``; a second one in the same folder goes on with its jobs and versions."""
    port = free_port()
    environment = {
        "DIGITS_PORT": str(port),
        "DIGITS_STATE_DIR": str(folder / "var"),
        "DIGITS_MODEL_DIR": str(folder / "models"),
    }
    with (
        running(folder, "up", **environment) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as api,
    ):
        service = Service(folder, process, api, environment)
        eventually(lambda: process.popen.poll() is not None or service.ready(), "the service is ready")
        assert process.popen.poll() is None, process.output
        yield service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running_service(tmp_path) as running:
        yield running
