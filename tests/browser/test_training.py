"""Train and watch, with the real worker: from the form to the version, and through a restart of the API."""

import re

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE_MILLISECONDS, Visitor
from tests.processes import eventually
from tests.system.conftest import Service
from tests.versions import NEXT

pytestmark = pytest.mark.usefixtures("without_jobs")

EPOCHS = 20  # of the job that is still trained when the API is back

# Notes each epoch as it is shown: the newest one of the slider, and how many points the curve of D's loss has.
RECORD = """
window.seen = [];
new MutationObserver(() => {
  const points = document.querySelector("#curves polyline")?.getAttribute("points").trim().split(" ").length ?? 0;
  const at = [Number(document.getElementById("epoch").max), points].join();
  if (window.seen.at(-1) !== at) window.seen.push(at);
}).observe(document.getElementById("curves"), { childList: true });
"""


def start(page: Page, epochs: int) -> str:
    """Send a job by the form; its id."""
    page.locator("#order").get_by_text("Vanilla GAN").click()
    page.get_by_label("Epochs", exact=True).fill(str(epochs))
    page.get_by_role("button", name="Train", exact=True).click()
    link = page.get_by_role("link", name="The job is queued. Watch it learn.")
    link.click()
    page.wait_for_url(re.compile("watch"))
    return page.url.partition("job=")[2]


def count_epochs(page: Page) -> int:
    return int(page.locator("#epoch").get_attribute("max") or 0) if page.locator("#sample").is_visible() else 0


def test_a_training_is_watched_to_its_end_and_its_version_drawn_from(visitor: Visitor, service: Service) -> None:
    page = visitor.open("training")
    job = start(page, 3)
    page.evaluate(RECORD)
    expect(page.locator("#facts")).to_contain_text("training", timeout=PATIENCE_MILLISECONDS)
    made = page.get_by_role("link", name="Draw from it")
    expect(made).to_be_visible(timeout=PATIENCE_MILLISECONDS)
    expect(page.locator("#facts")).to_contain_text(f"It made version {NEXT['vanilla']}.")
    expect(page.locator("#epoch")).to_have_attribute("max", "3")
    assert page.locator("#curves polyline").first.evaluate("line => line.points.length") == 3
    assert service.job(job)["state"] == "succeeded"
    for epoch in (1, 2, 3):
        page.locator("#epoch").fill(str(epoch))
        expect(page.locator("#shown")).to_have_text(f"{epoch} of 3")
        page.locator("#sample").evaluate("image => image.decode()")
    again = visitor.open(f"watch?job={job}")  # when it has ended, all epochs come from the version
    expect(again.locator("#shown")).to_have_text("3 of 3")
    expect(again.locator("#sample")).to_have_attribute("src", re.compile("jobs/.*epoch=3"))
    made.click()
    expect(page.locator("#caption")).to_contain_text(f"Vanilla GAN version {NEXT['vanilla']}")
    expect(page.locator(".cells button")).to_have_count(16)


def test_no_epoch_is_missing_or_comes_twice_when_the_api_dies(visitor: Visitor, service: Service) -> None:
    visitor.may_lose = True
    page = visitor.open("training")
    start(page, EPOCHS)
    page.evaluate(RECORD)
    eventually(lambda: count_epochs(page) >= 2, "two epochs are shown")
    api = service.part("api")
    assert api
    api.kill()
    expect(page.locator("#connection")).to_contain_text("The connection is gone")
    expect(page.locator("#connection")).to_have_text("", timeout=PATIENCE_MILLISECONDS)
    assert count_epochs(page) < EPOCHS
    expect(page.get_by_role("link", name="Draw from it")).to_be_visible(timeout=PATIENCE_MILLISECONDS)
    seen = [tuple(map(int, one.split(","))) for one in page.evaluate("window.seen")]
    # As many points as epochs: none lacks, none comes twice. The picture of the newest point may be on its way.
    assert all(points - epoch in (0, 1) for epoch, points in seen), seen
    assert [epoch for epoch, _ in seen] == sorted(epoch for epoch, _ in seen)
    assert seen[-1] == (EPOCHS, EPOCHS)


def test_cancel_asks_first(visitor: Visitor, service: Service) -> None:
    page = visitor.open("training")
    job = start(page, 500)
    expect(page.locator("#facts")).to_contain_text("training", timeout=PATIENCE_MILLISECONDS)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Let it train").click()
    assert not service.job(job)["cancel_requested"]
    page.get_by_role("link", name="All jobs").click()
    row = page.locator(f"#job-{job}")
    row.get_by_role("button", name="Cancel").click()
    page.keyboard.press("Escape")
    assert not service.job(job)["cancel_requested"]
    row.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(row).to_contain_text("canceled", timeout=PATIENCE_MILLISECONDS)
    expect(row.get_by_role("button")).to_have_count(0)


def test_a_canceled_job_can_keep_its_epochs(visitor: Visitor, service: Service) -> None:
    page = visitor.open("training")
    job = start(page, 500)
    eventually(lambda: count_epochs(page) >= 1, "an epoch is shown")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_label("Keep the finished epochs").check()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.get_by_role("link", name="Draw from it")).to_be_visible(timeout=PATIENCE_MILLISECONDS)
    assert service.job(job)["version"]


def test_the_list_keeps_the_focus_while_it_is_fresh(visitor: Visitor, service: Service) -> None:
    job = service.train(arch="vanilla", epochs=500)
    service.wait_for(job, "running")
    page = visitor.open("training")
    button = page.locator(f"#job-{job}").get_by_role("button", name="Cancel")
    button.focus()
    before = eventually(lambda: service.job(job)["epoch"], "it has begun")
    eventually(lambda: service.job(job)["epoch"] > before + 1, "it goes on")
    expect(page.locator(f"#job-{job}")).not_to_contain_text(f"epoch {before} ")
    expect(button).to_be_focused()


def test_redis_is_lost_and_comes_back(visitor: Visitor, service: Service) -> None:
    visitor.may_lose = True
    job = service.train(arch="vanilla", epochs=500)
    service.wait_for(job, "running")
    listed, watched = visitor.open("training"), visitor.open(f"watch?job={job}")
    eventually(lambda: count_epochs(watched) >= 1, "an epoch is shown")
    listed.get_by_label("Epochs", exact=True).fill("7")
    valkey = service.part("valkey")
    assert valkey
    valkey.suspend()
    try:
        expect(listed.locator("#jobs")).to_contain_text("Redis does not answer", timeout=PATIENCE_MILLISECONDS)
        listed.get_by_role("button", name="Train", exact=True).click()
        expect(listed.locator("#notice")).to_contain_text("Redis does not answer", timeout=PATIENCE_MILLISECONDS)
        drawn = visitor.open()
        expect(drawn.locator(".cells button")).to_have_count(16)
    finally:
        valkey.resume()
    expect(listed.locator(f"#job-{job}")).to_be_visible(timeout=PATIENCE_MILLISECONDS)
    expect(listed.locator("#answer")).to_contain_text("The job is queued", timeout=PATIENCE_MILLISECONDS)
    assert listed.get_by_label("Epochs", exact=True).input_value() == "7"
    assert [one["epochs"] for one in service.api.get("/jobs?state=queued").json()] == [7]
    at = count_epochs(watched)
    eventually(lambda: count_epochs(watched) > at, "it goes on")
    assert psutil.pid_exists(valkey.pid)


def test_a_version_replays_from_its_files(visitor: Visitor) -> None:
    page = visitor.open("watch?arch=wgan&version=3")
    expect(page.locator("#epoch")).to_have_attribute("max", "150")
    expect(page.locator("#shown")).to_have_text("150 of 150")
    assert page.locator("#curves polyline").first.evaluate("line => line.points.length") == 150
    expect(page.locator("#curves")).to_contain_text("Critic's estimate of the distance")
    page.locator("#epoch").focus()
    page.keyboard.press("Home")
    expect(page.locator("#shown")).to_have_text("1 of 150")
    page.get_by_role("button", name="Play").click()
    expect(page.locator("#shown")).not_to_have_text("1 of 150")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save the animation").click()
    assert saved.value.path().read_bytes()[8:12] == b"WEBP"


def test_a_proxy_that_answers_for_the_service_ends_no_watching(visitor: Visitor, service: Service) -> None:
    visitor.may_lose = True
    job = service.train(arch="vanilla", epochs=500)
    service.wait_for(job, "running")
    page = visitor.open("docs")
    page.route("**/events", lambda route: route.fulfill(status=504, body="<h1>Gateway Time-out</h1>"), times=2)
    page.goto(f"watch?job={job}")
    expect(page.locator("#connection")).to_contain_text("The connection is gone")
    eventually(lambda: count_epochs(page) >= 1, "an epoch is shown")
    expect(page.locator("#connection")).to_have_text("")


def test_a_form_with_a_wrong_address_trains_by_the_defaults(visitor: Visitor) -> None:
    page = visitor.open("training?arch=x&recipe=y")
    expect(page.get_by_label("WGAN-GP")).to_be_checked()
    expect(page.locator("#recipe")).to_have_value("tuned")
    with page.expect_response("**/training?**"):
        pass  # its list is looked for again


def test_an_animation_begins_with_the_first_epoch(visitor: Visitor) -> None:
    page = visitor.open("watch?arch=wgan&version=1")
    expect(page.locator("#shown")).to_have_text("40 of 40")
    page.evaluate("""() => {
      window.shown = [];
      const place = document.getElementById("shown");
      new MutationObserver(() => window.shown.push(place.textContent)).observe(place, { childList: true });
    }""")
    page.get_by_role("button", name="Play").click()
    eventually(lambda: len(page.evaluate("window.shown")) > 2, "it plays")
    assert page.evaluate("window.shown")[:3] == ["1 of 40", "2 of 40", "3 of 40"]


def test_a_training_that_is_watched_offline_says_so(visitor: Visitor, service: Service) -> None:
    visitor.may_lose = True
    job = service.train(arch="vanilla", epochs=500)
    service.wait_for(job, "running")
    page = visitor.open(f"watch?job={job}")
    eventually(lambda: count_epochs(page) >= 1, "an epoch is shown")
    expect(page).to_have_title(f"Watch it learn: Vanilla GAN, job {job[:8]} – digits")
    page.context.set_offline(True)
    expect(page.locator("#notice")).to_contain_text("This device is offline")
    page.context.set_offline(False)
    expect(page.locator("#notice")).to_have_text("", timeout=PATIENCE_MILLISECONDS)
