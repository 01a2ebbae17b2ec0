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
    row = page.locator(f"#job-{job}")
    expect(row).not_to_contain_text(f"epoch {before} ")
    speed, to_go, attempts = row.locator(".number").all()
    expect(speed).to_have_text(re.compile(r"^[\d,]+$"))
    expect(to_go).to_have_text(re.compile(r"^\d+ (s|min)$"))
    expect(attempts).to_have_text("1")
    expect(button).to_be_focused()
    other = service.train(arch="dcgan")  # which waits: a row above
    expect(page.locator(f"#job-{other}")).to_be_visible()
    expect(button).to_be_focused()
    service.api.delete(f"/jobs/{other}")
    expect(page.locator(f"#job-{other}")).to_contain_text("canceled")
    expect(page.locator("#news")).to_contain_text("DCGAN: canceled")
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


def test_a_version_replays_from_its_files(visitor: Visitor, service: Service) -> None:
    page = visitor.open("watch?arch=wgan&version=3")
    expect(page.locator("#epoch")).to_have_attribute("max", "150")
    expect(page.locator("#shown")).to_have_text("150 of 150")
    assert page.locator("#curves polyline").first.evaluate("line => line.points.length") == 150
    said = service.api.get("/models/wgan/3").json()["metrics"]
    for chart, value in {
        "Losses": "discriminator D -", "Verdict of D": "score of the critic", "Critic's estimate": "D(fake)) 0.",
        "FID": f"{said['fid']:.4g}", "Precision, recall and balance": f"recall {said['recall']:.4g}",
        "Earth mover's distance": f"{said['emd']:.4g}",
    }.items():  # fmt: skip
        expect(page.locator(".chart", has=page.get_by_text(chart)).first).to_contain_text(value)
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


@pytest.mark.parametrize(("status", "said"), [(504, "The connection is gone"), (500, "an error of its own")])
def test_an_error_of_the_service_or_its_proxy_ends_no_watching(
    visitor: Visitor, service: Service, status: int, said: str
) -> None:
    visitor.may_lose = True
    job = service.train(arch="vanilla", epochs=500)
    service.wait_for(job, "running")
    page = visitor.open("docs")
    page.route("**/events", lambda route: route.fulfill(status=status, body="<h1>Sorry</h1>"))
    page.goto(f"watch?job={job}")
    expect(page.locator("#connection")).to_contain_text(said)
    page.unroute("**/events")
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


def test_the_form_says_what_a_recipe_does(visitor: Visitor) -> None:
    page = visitor.open("training", locale="ja-JP")
    for arch, recipe, epochs in (("WGAN-GP", "tuned", "150"), ("DCGAN", "tuned", "60"), ("DCGAN", "book", "100")):
        page.locator("#order").get_by_text(arch).click()
        page.locator("#recipe").select_option(recipe)
        expect(page.locator("#epochs")).to_have_attribute("placeholder", epochs)
    page.locator("#epochs").fill("1001")
    page.get_by_role("button", name="学習を始める").click()
    expect(page.locator("#mistake")).to_have_text("エポック数：1000 以下にしてください。")


def test_the_list_of_jobs_needs_no_scripts(visitor: Visitor, service: Service) -> None:
    job = service.train(arch="dcgan", epochs=2)
    page = visitor.open("training", java_script_enabled=False)
    expect(page.locator(f"#job-{job}")).to_contain_text("DCGAN")
    expect(page.locator(f"#job-{job} button")).to_be_hidden()
    page.get_by_role("link", name="DCGAN").first.click()
    expect(page.locator("#facts")).to_contain_text(job)
    compared = visitor.open("compare", java_script_enabled=False)
    expect(compared.locator(".facts")).to_contain_text("2 h 51 min")
    expect(compared.locator("noscript p")).to_be_visible()
