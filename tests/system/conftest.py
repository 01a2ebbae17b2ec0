"""The whole service for the tests of this folder: ``digits up`` in a directory of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from app.processes.valkey import find_free_port
from tests.processes import PATIENCE_SECONDS, Process, answers, eventually, running
from tests.system.hosts import Hosts, running_hosts

PARTS = {"valkey": "valkey-server", "worker": " worker", "api": " serve"}  # in their command lines


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
        """The running child with this name, or None."""
        for child in psutil.Process(self.process.popen.pid).children():
            try:
                if PARTS[name] in " ".join(child.cmdline()):
                    return child
            except psutil.Error:  # it has just ended
                continue
        return None

    def trainer(self) -> psutil.Process:
        """The training process, a child of the worker."""
        worker = self.part("worker")
        assert worker is not None
        return max(worker.children(recursive=True), key=lambda child: child.memory_info().rss)

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

        def progress() -> object:
            return [self.job(job_id)[name] for name in ("state", "attempt", "epoch", "step")]

        found = eventually(reached, f"job is {state}:\n{self.output}", seconds, progress=progress)
        assert found is not None
        return found


@contextmanager
def running_service(folder: Path, changes: str = "unmeasured", **more: str) -> Iterator[Service]:
    """Run ``digits up``. A second run in the same folder goes on with the jobs and versions of the first.

    ``changes`` are rows of ``tests.system.host.CHANGES``; with none, everything is as users have it. ``more`` are
    variables of its environment.
    """
    port = find_free_port()
    environment = {
        "DIGITS_PORT": str(port),
        "DIGITS_API_PROCESSES": "1",  # test_serving.py tests several
        "DIGITS_STATE_DIR": str(folder / "var"),
        "DIGITS_MODEL_DIR": str(folder / "models"),
        "CHANGES_FOR_TESTS": changes,
        **more,
    }
    with (
        running(folder, "up", module="tests.system.host" if changes else "app", **environment) as process,
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.config.getoption("--unprotected"):
        names = [mark.args[0] for mark in metafunc.definition.iter_markers("protection")]
        if "off" in metafunc.fixturenames:
            metafunc.parametrize(
                "off",
                [pytest.param(name, marks=pytest.mark.xfail(raises=AssertionError, strict=True)) for name in names],
            )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--unprotected"):
        items[:] = [item for item in items if item.get_closest_marker("protection")]


@pytest.fixture
def off() -> str:
    """The protections that are switched off, as a comma-separated list."""
    return ""


@pytest.fixture
def hosts(tmp_path: Path, request: pytest.FixtureRequest, off: str) -> Iterator[Hosts]:
    """Hosts for one test. They notice faults quickly, and have the changes that the test's marks name."""
    changes = ["quick", *(mark.args[0] for mark in request.node.iter_markers("changes")), off]
    with running_hosts(tmp_path, ",".join(changes)) as running:
        yield running
