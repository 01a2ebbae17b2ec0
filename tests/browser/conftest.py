"""A real Chromium, and the whole service for it: ``digits up``.

Every page is watched: no error in its console, nothing asked of another host, nothing that the policy forbids.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from tests.system.conftest import Service, running_service

PATIENCE_MILLISECONDS = 60_000  # for what a worker or a restarted service does
ACTION_MILLISECONDS = 20_000  # for an element to be there
LOST = "Failed to load resource"  # Chromium's words for every answer that is an error, and for none

# Set before any script of the page runs.
LISTEN = """
addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
  console.error(`policy: ${violatedDirective} ${blockedURI}`));
"""


@pytest.fixture(scope="module")  # its event loop would be in the way of tests that have their own
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        assert not os.environ.get("CI"), "no chromium: .ci/run installs it"
        pytest.skip("no chromium")
    with sync_playwright() as playwright:
        # As root, which containers are, Chromium starts only without its sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("service"), "few,unmeasured") as running:
        yield running


@dataclass
class Visitor:
    """Opens views of one service, and knows what went wrong in them."""

    chromium: Browser
    base: str
    may_lose: bool = False  # the test takes the service away, so answers may be missing
    problems: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def open(self, address: str = "", **options: Any) -> Page:
        """Open a view in a browser of its own. ``options`` are those of a Playwright context."""
        context = self.chromium.new_context(base_url=self.base, **{"locale": "en-US", **options})
        self.contexts.append(context)
        context.set_default_timeout(ACTION_MILLISECONDS)
        if options.get("java_script_enabled", True):
            context.add_init_script(LISTEN)
        page = context.new_page()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", lambda request: self._see(request.url))
        page.goto(address)
        return page

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (self.may_lose and message.text.startswith(LOST)):
            self.problems.append(f"{message.type}: {message.text} {message.location.get('url', '')}")

    def _see(self, url: str) -> None:
        if urlsplit(url).scheme not in ("data", "blob") and not url.startswith(self.base):
            self.problems.append(f"another host: {url}")


@contextmanager
def visiting(chromium: Browser, base: object, *, may_lose: bool = False) -> Iterator[Visitor]:
    """A visitor of the service at ``base``, in whose views nothing may have gone wrong at the end."""
    visitor = Visitor(chromium, f"{base}/", may_lose)
    try:
        yield visitor
    finally:
        for context in visitor.contexts:
            context.close()
    assert visitor.problems == []


@pytest.fixture
def visitor(chromium: Browser, service: Service) -> Iterator[Visitor]:
    with visiting(chromium, service.api.base_url) as visitor:
        yield visitor


@pytest.fixture
def without_jobs(service: Service) -> Iterator[None]:
    """Each test leaves an idle worker behind."""
    yield
    for job in service.api.get("/jobs").json():
        if job["ended_at"] is None:
            service.api.delete(f"/jobs/{job['id']}")
            service.wait_for(job["id"], "canceled")
