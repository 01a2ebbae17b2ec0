"""Real parts for the tests: a Valkey, workers and APIs as processes of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.processes import running_valkey
from worker.jobs import JobStore
from worker.queue import connect

torch.set_num_threads(1)  # small networks: threads of several processes only fight for the cores


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
