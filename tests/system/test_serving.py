"""``digits serve`` in several processes: they share the port and the model directory, and nothing else."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from app.processes.valkey import find_free_port
from models import classifier, versions
from tests.processes import PATIENCE_SECONDS, Process, answers, eventually, running
from tests.system.test_up import all_gone
from tests.versions import publish

PROCESSES = 2


class Serving:
    """A running ``digits serve --workers 2``."""

    def __init__(self, process: Process, port: int, model_dir: Path) -> None:
        self.process, self.port, self.model_dir = process, port, model_dir

    def client(self) -> httpx.Client:
        """One of many: it reads no certificates, which would take 20 ms."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_SECONDS, verify=False)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.popen.pid).children()

    def ready(self) -> bool:
        """Whether every process listens, and one answers. A new connection may go to any of them."""
        for child in self.children():
            listening = [one for one in child.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
            if not listening:
                return False
        with self.client() as client:
            return len(self.children()) == PROCESSES and answers(client)


@contextmanager
def running_processes(folder: Path, **environment: str) -> Iterator[Serving]:
    port = find_free_port()
    defaults = {"DIGITS_PORT": str(port), "DIGITS_MODEL_DIR": str(folder / "models"), "DIGITS_DEVICE": "cpu"}
    with running(folder, "serve", "--workers", str(PROCESSES), **{**defaults, **environment}) as process:
        found = Serving(process, port, folder / "models")
        eventually(found.ready, f"all processes listen:\n{process.output}")
        yield found


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with running_processes(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with running_processes(tmp_path_factory.mktemp("serving")) as found:
        yield found


def test_connections_are_spread_over_the_processes_and_one_that_dies_comes_again(shared: Serving) -> None:
    clients = [shared.client() for _ in range(60)]
    assert all(client.get("/livez").status_code == 200 for client in clients)
    children = shared.children()
    held = {
        child.pid: sum(1 for one in child.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED)
        for child in children
    }
    assert sum(held.values()) == 60
    assert min(held.values()) > 0  # fails by chance once in 10¹⁷ runs
    for client in clients:
        client.close()
    children[0].kill()
    children[0].wait(PATIENCE_SECONDS)  # else it may still count as ready
    with shared.client() as client:
        eventually(lambda: answers(client), "the others answer")
    eventually(shared.ready, "all of them are there again")
    assert {child.pid for child in shared.children()} != set(held)


def test_all_processes_are_in_one_session_and_in_groups_of_their_own(shared: Serving) -> None:
    """Linux divides CPU time among sessions first, and a terminal's Ctrl-C goes to a whole group."""
    pids = [shared.process.popen.pid, *(child.pid for child in shared.children())]
    assert {os.getsid(pid) for pid in pids} == {pids[0]}
    assert [os.getpgid(pid) for pid in pids] == pids


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes(serving: Serving, number: int) -> None:
    processes = [psutil.Process(serving.process.popen.pid), *serving.children()]
    assert serving.process.end(number) == 0
    assert all_gone(processes)


def test_nothing_is_left_when_the_first_process_is_killed(serving: Serving) -> None:
    children = serving.children()
    os.kill(serving.process.popen.pid, signal.SIGKILL)
    eventually(lambda: all_gone(children), "all are gone")


def test_a_port_that_is_taken_is_named(shared: Serving, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        with running(tmp_path, "serve", "--workers", workers, "--port", str(shared.port)) as second:
            assert second.popen.wait(PATIENCE_SECONDS) == 1
            assert f"cannot listen on 127.0.0.1:{shared.port}" in second.output


def test_a_version_that_is_published_is_known_to_every_process(shared: Serving) -> None:
    """Also before the processes read the directory again, which they do every second."""
    for path in ("/models/dcgan/{}", "/generate?arch=dcgan&n=1&version={}"):
        version = publish(shared.model_dir).version
        for _ in range(20):
            with shared.client() as client:  # to any process
                assert client.get(path.format(version)).status_code == 200


def test_versions_are_swapped_under_load_and_every_answer_is_of_one(shared: Serving) -> None:
    """Five better versions appear while clients ask for the best one. A seed makes each answer repeatable."""
    query: dict[str, Any] = {"arch": "dcgan", "n": 40, "seed": 7}
    before = len(versions.find_folders(shared.model_dir))
    answered: list[httpx.Response] = []
    failed: list[object] = []
    enough = threading.Event()

    def ask() -> None:
        with shared.client() as client:
            while not enough.is_set():
                try:
                    answered.append(client.post("/generate", params=query).raise_for_status())
                except httpx.HTTPError as error:
                    failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: answered, "the version before them answers")
        for number in range(5):
            better: Any = {"metrics": {"fid": 0.5 - number / 10}, "classifier_sha256": classifier.sha256()}
            version = str(publish(shared.model_dir, weights_seed=number, **better).version)
            eventually(lambda version=version: answered[-1].headers["X-Version"] == version, "it answers")  # type: ignore[misc]
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert failed == []
    pictures: dict[str, set[bytes]] = {}
    for answer in answered:
        pictures.setdefault(answer.headers["X-Version"], set()).add(answer.content)
    assert len(pictures) == 6
    assert len(versions.find_folders(shared.model_dir)) == before + 5
    with shared.client() as client:
        for version, seen in pictures.items():
            again = client.post("/generate", params={**query, "version": version})
            assert seen == {again.content}
