"""Real parts for the tests: a Valkey, workers and APIs as processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Two test processes share two cores: with one thread each, neither waits for the other. torch reads
# this when it is loaded, here and in every process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from tests.processes import running_valkey
from worker.connections import connect
from worker.jobs import JobStore
from worker.linux import yield_cores
from worker.tasks import NICENESS

# Training yields to all other processes. Tests get nearly its priority, so that it yields to them only a little.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.setsid()
yield_cores(NICENESS - 1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--unprotected",
        action="store_true",
        help="run only the fault tests, each without the protection that it proves: all must fail",
    )


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey that the tests of one session share."""
    with running_valkey(tmp_path_factory.mktemp("valkey")) as (_, url):
        yield url


@pytest.fixture
def store(valkey_url: str) -> JobStore:
    """An empty store."""
    client = connect(valkey_url)
    client.flushdb()
    return JobStore(client)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for tests that only read it."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of tests/foreign.py."""
    folder = tmp_path_factory.mktemp("foreign")
    script = Path(__file__).with_name("foreign.py")
    subprocess.run([sys.executable, "-W", "error", script, folder], check=True, timeout=60)
    return folder
