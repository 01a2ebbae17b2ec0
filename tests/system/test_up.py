"""``digits up``: one supervisor for Valkey, worker and API, with real processes and signals."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import eventually, running
from tests.system.conftest import PARTS, Service, running_service

pytestmark = pytest.mark.timeout(900)  # what a test waits for has its own patience

END_SECONDS = 10.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for tests that leave it as it was."""
    with running_service(tmp_path_factory.mktemp("up"), "few,unmeasured") as running:
        yield running


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.mark.parametrize(("number", "training"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_ends_everything_in_order(service: Service, number: int, training: bool) -> None:
    if training:
        job_id = service.train(arch="wgan", recipe="book")  # it has the longest steps
        eventually(lambda: service.job(job_id)["step"], "it trains")
    processes = service.everything()
    assert len(processes) >= 5  # supervisor, Valkey, worker, its child, API
    began = time.monotonic()
    assert service.process.end(number) == 0
    assert time.monotonic() - began < END_SECONDS
    assert all_gone(processes)
    ends = [service.output.rindex(mark) for mark in ("Finished server process", "Warm shutdown", "ready to exit")]
    assert ends == sorted(ends), service.output
    assert "killed" not in service.output


def test_nothing_is_left_when_the_supervisor_is_killed(service: Service) -> None:
    job_id = service.train(arch="vanilla", epochs=1000)
    eventually(lambda: service.job(job_id)["step"], "it trains")
    processes = service.everything()
    service.process.popen.kill()
    eventually(lambda: all_gone(processes), "all are gone")


def test_a_second_up_says_who_holds_the_directory(shared: Service) -> None:
    with running(shared.folder, "up", **shared.environment) as second:
        assert second.popen.wait(30) == 1
        assert f"process {shared.process.popen.pid} is running on" in second.output
        assert "DIGITS_STATE_DIR" in second.output
    assert shared.ready()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {"DIGITS_PORT": str(port), "DIGITS_STATE_DIR": str(tmp_path)}
        with running(tmp_path, "up", **environment) as process:
            assert process.popen.wait(30) == 1
            assert f"127.0.0.1:{port}" in process.output
            assert "DIGITS_PORT" in process.output


@pytest.mark.parametrize("name", PARTS)
def test_a_dead_child_is_started_again(shared: Service, name: str) -> None:
    child = shared.part(name)
    assert child is not None
    child.kill()
    eventually(lambda: f"{name} ended with signal 9; starting it again" in shared.output, "it is said")
    again = eventually(lambda: shared.part(name), "there is another one")
    assert again is not None
    assert again.pid != child.pid
    eventually(shared.ready, "all works again")
    job_id = shared.train(arch="vanilla", recipe="book", epochs=1)
    shared.wait_for(job_id, "succeeded")


def test_the_pauses_of_a_child_that_keeps_dying_grow(service: Service) -> None:
    for pause in (1, 2, 4):
        child = eventually(lambda: service.part("api"), "the API runs")
        assert child is not None
        child.kill()
        said = f"starting it again in {pause} s"
        eventually(lambda said=said: said in service.output, said)  # type: ignore[misc]


def test_the_password_is_in_no_log_no_argument_and_no_file(service: Service) -> None:
    worker = service.part("worker")
    assert worker is not None
    url = worker.environ()["DIGITS_REDIS_URL"]
    found = re.fullmatch(r"redis://:([\w-]{40,})@127\.0\.0\.1:\d+/0", url)
    assert found
    password = found[1]
    job_id = service.train(arch="vanilla", recipe="book", epochs=1)
    service.wait_for(job_id, "succeeded")
    assert not any(password in " ".join(process.cmdline()) for process in service.everything())
    service.process.end()
    assert password not in service.output
    for path in service.folder.rglob("*"):
        assert not path.is_file() or password.encode() not in path.read_bytes(), path


def test_valkey_listens_on_loopback_alone_and_keeps_an_append_only_file(shared: Service) -> None:
    valkey = shared.part("valkey")
    assert valkey is not None
    listening = [c.laddr.ip for c in valkey.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    assert list((shared.folder / "var" / "valkey" / "appendonlydir").iterdir())
    assert os.stat(shared.folder / "var" / "valkey").st_mode & 0o077 == 0


def test_jobs_and_versions_outlive_the_service(tmp_path: Path) -> None:
    with running_service(tmp_path, "few,unmeasured") as first:
        done = first.train(arch="vanilla", recipe="book", epochs=1)
        version = first.wait_for(done, "succeeded")["version"]
        running_job = first.train(arch="vanilla", recipe="book", epochs=30)
        waiting_job = first.train(arch="vanilla", recipe="book", epochs=1)
        eventually(lambda: first.job(running_job)["step"], "it trains")
        assert first.job(running_job)["ended_at"] is None
    with running_service(tmp_path, "few,unmeasured") as second:
        assert second.job(done)["version"] == version
        assert second.api.get(f"/models/vanilla/{version}").status_code == 200
        assert second.job(running_job)["lost_leases"] == 0  # it was given back
        versions = [second.wait_for(job_id, "succeeded")["version"] for job_id in (running_job, waiting_job)]
        assert sorted([version, *versions]) == [version, version + 1, version + 2]
