"""The page behind a real nginx, under a prefix."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import visiting
from tests.nginx import KINDS, running_nginx
from tests.processes import running_api
from worker.jobs import JobStore


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("prefixed")
    environment = {
        "DIGITS_ROOT_PATH": "/digits", "DIGITS_REDIS_URL": valkey_url, "DIGITS_MODEL_DIR": str(folder),
        "DIGITS_ALLOWED_HOSTS": "127.0.0.1",  # whose pages may change something, whatever Host nginx sends
    }  # fmt: skip
    with running_api(folder, **environment) as client:
        yield client


@pytest.mark.parametrize("kind", KINDS)
def test_every_view_works(chromium: Browser, api: httpx.Client, store: JobStore, tmp_path: Path, kind: str) -> None:
    with running_nginx(tmp_path, api, KINDS[kind]) as address, visiting(chromium, address) as visitor:
        page = visitor.open()
        expect(page.locator(".cells button")).to_have_count(16)
        for name, there in (("Compare", "#right img"), ("Morph", "#position:enabled"), ("Train", "#order")):
            page.get_by_role("link", name=name, exact=True).click()
            page.locator(there).wait_for()
        page.get_by_role("button", name="Train", exact=True).click()
        page.get_by_role("link", name="The job is queued.").click()
        expect(page.locator("#facts")).to_contain_text("No worker is running")
        page.get_by_role("link", name="日本語").click()
        page.get_by_role("link", name="描く").click()
        expect(page.locator("html")).to_have_attribute("lang", "ja")
