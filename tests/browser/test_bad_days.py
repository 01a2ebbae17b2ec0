"""What the page says when something is away, full, late or broken; and that it goes on by itself."""

import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from app.processes.valkey import find_free_port
from models.versions import PRETRAINED
from tests.browser.conftest import PATIENCE_MILLISECONDS, Visitor, visiting
from tests.processes import eventually, running_api
from worker.jobs import JobState, JobStore, TrainRequest
from worker.recipes import ArchName

DAMAGED = 77  # the number of a version whose files are damaged


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[httpx.Client]:
    """An API without a worker, whose queue has room for one job."""
    folder = tmp_path_factory.mktemp("api")
    damaged = folder / "models" / "wgan" / str(DAMAGED)
    shutil.copytree(PRETRAINED / "wgan" / "3", damaged)
    manifest = damaged / "manifest.json"
    manifest.write_text(re.sub(r'"version": ?3,', f'"version": {DAMAGED},', manifest.read_text()))
    (damaged / "generator.safetensors").write_bytes(b"damaged")
    environment = {
        "DIGITS_REDIS_URL": valkey_url, "DIGITS_MODEL_DIR": str(folder / "models"), "DIGITS_MAX_QUEUED": "1",
        "DIGITS_DEADLINE_SECONDS": "2",
    }  # fmt: skip
    with running_api(folder, **environment) as client:
        yield client


@pytest.fixture
def visitor(chromium: Browser, api: httpx.Client) -> Iterator[Visitor]:
    with visiting(chromium, api.base_url, may_lose=True) as visitor:
        yield visitor


def open_drawn(visitor: Visitor, address: str = "") -> Page:
    page = visitor.open(address)
    expect(page.locator(".cells button").first).to_be_visible()
    return page


def again(page: Page) -> None:
    page.get_by_role("button", name="New digits").click()


def test_offline(visitor: Visitor) -> None:
    page = open_drawn(visitor)
    page.context.set_offline(True)
    page.get_by_label("How many").fill("4")
    expect(page.locator("#notice")).to_contain_text("This device is offline")
    assert page.get_by_label("How many").input_value() == "4"
    page.context.set_offline(False)
    expect(page.locator(".cells button")).to_have_count(4, timeout=PATIENCE_MILLISECONDS)
    expect(page.locator("#notice")).to_have_text("", timeout=PATIENCE_MILLISECONDS)


def test_the_service_is_started_again(chromium: Browser, tmp_path: Path) -> None:
    port = str(find_free_port())
    with visiting(chromium, f"http://127.0.0.1:{port}", may_lose=True) as visitor:
        with running_api(tmp_path, DIGITS_PORT=port):
            page = open_drawn(visitor)
        page.get_by_label("How many").fill("4")
        expect(page.locator("#notice")).to_contain_text("The service does not answer")
        with running_api(tmp_path, DIGITS_PORT=port):
            expect(page.locator(".cells button")).to_have_count(4, timeout=PATIENCE_MILLISECONDS)


@contextmanager
def flooded(api: httpx.Client, clients: int) -> Iterator[None]:
    """As many clients ask for 1,024 images each, again and again."""
    enough = threading.Event()

    def ask_for_much() -> None:
        with httpx.Client(base_url=api.base_url, timeout=60) as client:
            while not enough.is_set():
                client.get("/generate?arch=wgan&n=1024")

    with ThreadPoolExecutor(clients) as threads:
        for _ in range(clients):
            threads.submit(ask_for_much)
        try:
            yield
        finally:
            enough.set()


def test_busy(visitor: Visitor, api: httpx.Client) -> None:
    page = open_drawn(visitor)
    with flooded(api, 140):  # twice as many images as may wait

        def is_refused() -> bool:
            again(page)
            return "too much to do" in page.locator("#notice").inner_text()

        eventually(is_refused, "the page says that the service is busy")
    expect(page.locator("#notice")).to_have_text("", timeout=PATIENCE_MILLISECONDS)


def test_late(visitor: Visitor, api: httpx.Client) -> None:
    page = open_drawn(visitor)
    with flooded(api, 60):  # nearly as many, which take longer than the deadline; a large picture gets its share only
        page.get_by_label("How many").fill("1024")
        expect(page.locator("#notice")).to_contain_text("took too long", timeout=PATIENCE_MILLISECONDS)
        assert page.get_by_label("How many").input_value() == "1024"
    page.get_by_label("How many").fill("4")
    expect(page.locator(".cells button")).to_have_count(4)
    expect(page.locator("#notice")).to_have_text("")


def test_a_rejected_version(visitor: Visitor) -> None:
    page = visitor.open(f"?arch=wgan&version={DAMAGED}&n=4")
    expect(page.locator(".result .problem")).to_contain_text(f"version {DAMAGED} of wgan is rejected")
    expect(page.locator(".cells button")).to_have_count(4)  # of the best version
    assert page.get_by_label("Version").input_value() == ""
    page.get_by_role("button", name="New digits").click()
    expect(page.locator(".result .problem")).to_have_count(0)


def test_no_worker_and_a_full_queue(visitor: Visitor, store: JobStore) -> None:
    page = visitor.open("training")
    page.get_by_label("Epochs", exact=True).fill("9")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("#jobs")).to_contain_text("No worker is running")
    page.get_by_label("Epochs", exact=True).fill("8")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("#answer")).to_contain_text("Too many jobs wait")
    assert page.get_by_label("Epochs", exact=True).input_value() == "8"
    assert len(store.list_newest(9)) == 1


def test_an_order_whose_answer_was_lost_makes_one_job(visitor: Visitor, store: JobStore) -> None:
    page = visitor.open("training")

    def lose_the_answer(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/train", lose_the_answer, times=1)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("#answer")).to_contain_text("The job is queued")
    assert len(store.list_newest(9)) == 1


def test_a_failed_job(visitor: Visitor, store: JobStore) -> None:
    job, _ = store.create(TrainRequest(arch=ArchName("wgan")))
    claim = store.claim(job.id, "a test")
    assert claim
    store.finish(claim, JobState.FAILED, error="OSError: no space left")
    for address in ("training", f"watch?job={job.id}"):
        page = visitor.open(address)
        expect(page.locator("main")).to_contain_text("It failed: OSError: no space left")


def test_a_job_or_a_version_that_is_not_there(visitor: Visitor, store: JobStore) -> None:
    expect(visitor.open("watch?job=nothing").locator("main")).to_contain_text("There is no such job")
    page = visitor.open("watch?arch=wgan&version=999")
    expect(page.locator(".problem")).to_have_text("WGAN-GP has no version 999. Choose another one on the view Draw.")
    red = page.locator(".problem").evaluate("one => getComputedStyle(one).color")
    expect(page.locator("h1")).not_to_have_css("color", red)


@pytest.mark.parametrize(("field", "value"), [("Epochs", "1001"), ("Epochs", "0"), ("Seed", "-1")])
def test_a_wrong_form_is_not_sent(visitor: Visitor, store: JobStore, field: str, value: str) -> None:
    page = visitor.open("training")
    page.get_by_label(field, exact=True).fill(value)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("#mistake")).to_contain_text(f"{field}: at ")
    assert store.list_newest(9) == []
