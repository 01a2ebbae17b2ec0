"""A Valkey for the tests of this folder alone: an API beside them would send their webhooks and mend their jobs."""

from collections.abc import Iterator

import pytest

from tests.processes import running_valkey


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as (_, url):
        yield url
