"""One API for the tests of this folder: real uvicorn, real Valkey, no worker."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.processes import running_api


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory, valkey_url: str, model_dir: Path) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("api")
    with running_api(folder, DIGITS_REDIS_URL=valkey_url, DIGITS_MODEL_DIR=str(model_dir)) as client:
        yield client
