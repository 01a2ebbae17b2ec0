"""Answers that come late, fail or overtake each other: what is shown fits what was asked last."""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Visitor
from tests.processes import eventually
from tests.system.conftest import Service


@pytest.fixture(autouse=True)
def _may_lose(visitor: Visitor) -> None:
    visitor.may_lose = True


@contextmanager
def held(page: Page, address: str | re.Pattern[str]) -> Iterator[Callable[[], None]]:
    """Answers of an address are kept back until the given function is called, or until the end."""
    routes: list[Route] = []

    def release() -> None:
        while routes:
            routes.pop(0).continue_()

    page.route(address, lambda route: routes.append(route))
    yield release
    page.unroute(address)
    release()


def open_drawn(visitor: Visitor, address: str = "?seed=5") -> Page:
    page = visitor.open(address)
    expect(page.locator(".cells button").first).to_be_visible()
    return page


def test_a_late_answer_leaves_what_is_typed(visitor: Visitor) -> None:
    page = open_drawn(visitor)
    seed = page.get_by_label("Seed", exact=True)
    with held(page, "**/generate?**"), page.expect_request("**/generate?**"):
        seed.fill("4")
    seed.press_sequentially("2")
    expect(page.locator("#caption")).to_contain_text("seed 42 ")
    expect(seed).to_have_value("42")
    seed.fill("")
    seed.press_sequentially("7")
    expect(page.locator("#caption")).to_contain_text("seed 7 ")


def test_the_last_of_two_quick_draws_is_shown(visitor: Visitor) -> None:
    page = open_drawn(visitor)
    n = page.get_by_label("How many")
    with held(page, re.compile("n=1024")) as release:
        with page.expect_request(re.compile("n=1024")):
            n.fill("1024")
        n.fill("1")
        expect(page.locator(".cells button")).to_have_count(1)
        release()
    expect(page.locator(".cells button")).to_have_count(1)
    expect(page.locator("#notice")).to_have_text("")
    assert page.locator("#sheet").get_attribute("aria-busy") is None


def test_a_digit_is_of_the_picture_that_was_clicked_and_of_the_last_click(visitor: Visitor) -> None:
    page = open_drawn(visitor)
    dialog = page.get_by_role("dialog")
    with held(page, re.compile("seed=5&n=1|n=1&.*seed=5")) as release:
        page.get_by_role("button", name="Image 1", exact=True).click()
        page.get_by_role("button", name="Image 3", exact=True).click()
        expect(dialog).to_contain_text("Image 3")
        release()
        page.get_by_text("DCGAN").dispatch_event("click")
        expect(page.locator("#caption")).to_contain_text("DCGAN")
    expect(dialog).to_contain_text("Image 3")
    href = dialog.get_by_role("link", name="Draw from this seed on").get_attribute("href") or ""
    assert "arch=wgan" in href


def test_another_number_of_digits_returns_when_the_text_goes(visitor: Visitor) -> None:
    page = open_drawn(visitor, "?seed=5&n=5")
    n, text = page.get_by_label("How many"), page.get_by_label("Or write a number")
    text.fill("12")
    expect(n).to_have_value("1")
    n.fill("3")
    text.fill("123")
    expect(n).to_have_value("3")
    page.locator(".pad").get_by_text("3", exact=True).click()
    expect(n).to_have_value("5")
    expect(text).to_have_value("")
    expect(page.locator(".cells button")).to_have_count(5)


def test_a_seed_without_known_digits_is_explained_and_stays(visitor: Visitor) -> None:
    page = open_drawn(visitor, "?seed=99999")
    page.locator(".pad").get_by_text("3", exact=True).click()
    expect(page.locator("#mistake")).to_have_text("Seed: at most 65535.")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("99999")
    page.locator(".pad").get_by_text("any", exact=True).click()
    expect(page.locator("#mistake")).to_have_text("")
    page.get_by_label("Seed", exact=True).fill("-5")
    expect(page.locator("#mistake")).to_have_text("Seed: at least 0.")
    page.get_by_label("Seed", exact=True).fill("")
    expect(page.locator("#mistake")).to_have_text("")


@pytest.mark.parametrize("address", ["", "?seed=5"])
def test_back_leads_to_the_digits_before(visitor: Visitor, address: str) -> None:
    page = open_drawn(visitor, address)
    seed = page.get_by_label("Seed", exact=True).input_value()
    for _ in range(2):
        before = page.url
        page.get_by_role("button", name="New digits").click()
        expect(page).not_to_have_url(before)
    for _ in range(2):
        with page.expect_event("load"):  # it is opened anew
            page.go_back()
    expect(page.get_by_label("Seed", exact=True)).to_have_value(seed)
    expect(page.locator("#caption")).to_contain_text(f"from seed {seed} on")


def test_the_page_says_that_it_still_draws(visitor: Visitor) -> None:
    page = open_drawn(visitor)
    with held(page, "**/generate?**") as release:
        page.get_by_label("How many").fill("4")
        expect(page.locator("#caption")).to_have_text("Drawing …")
        release()
    expect(page.locator("#caption")).to_contain_text("4 digits by")


def test_enter_keeps_the_seed(visitor: Visitor) -> None:
    page = open_drawn(visitor)
    page.get_by_label("Seed", exact=True).fill("77")
    page.keyboard.press("Enter")
    expect(page.locator("#caption")).to_contain_text("seed 77 ")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("77")


def test_another_language_keeps_what_is_shown_and_typed(visitor: Visitor) -> None:
    page = open_drawn(visitor)
    page.get_by_label("Or write a number").fill("271")
    expect(page.locator("#code-curl")).to_contain_text("text=271")
    page.get_by_role("link", name="日本語").click()
    expect(page.locator("html")).to_have_attribute("lang", "ja")
    expect(page.locator("#text")).to_have_value("271")
    expect(page.locator("#seed")).to_have_value("5")
    page.goto("training?lang=en")
    page.get_by_label("Epochs", exact=True).fill("9")
    page.locator("#order").get_by_text("DCGAN").click()
    page.get_by_role("link", name="日本語").click()
    expect(page.locator("html")).to_have_attribute("lang", "ja")
    expect(page.locator("#epochs")).to_have_value("9")
    assert page.locator("[name=arch]:checked").get_attribute("value") == "dcgan"


def test_the_blind_test_after_an_error(visitor: Visitor) -> None:
    page = visitor.open("compare")
    expect(page.locator("#right img")).to_be_visible()
    page.locator("#left").click()
    problem = {"status": 504, "content_type": "application/problem+json", "body": '{"detail": "late"}'}
    page.route("**/real.png?**", lambda route: route.fulfill(**problem), times=1)
    page.get_by_role("button", name="Next pair").click()
    expect(page.locator("#notice")).to_contain_text("took too long")
    page.get_by_role("button", name="Next pair").click()
    expect(page.locator("#notice")).to_have_text("")
    page.locator("#left").click()
    expect(page.locator("#verdict")).to_contain_text(re.compile("fooled you|Right"))


def test_the_blind_test_takes_plain_arrows_only_and_knows_its_recipe(visitor: Visitor) -> None:
    page = visitor.open("compare")
    expect(page.locator("#right img")).to_be_visible()
    page.locator("#test").scroll_into_view_if_needed()
    page.keyboard.press("Control+ArrowLeft")
    expect(page.locator("#verdict")).to_have_text("")
    with held(page, re.compile("generate.*scale=6")) as release:
        page.locator("#left").click()
        page.get_by_role("button", name="Next pair").click()
        page.get_by_label("Recipe").select_option("book")
        page.locator("#test-recipe").blur()
        page.keyboard.press("ArrowLeft")  # there is nothing to choose from yet
        expect(page.locator("#verdict")).to_have_text("")
        release()
    expect(page.locator("#right img")).to_be_visible()
    expect(page.locator("#left")).not_to_have_attribute("aria-disabled", "true")
    page.locator("#left").click()
    scores = page.evaluate("JSON.parse(localStorage.getItem('digits-blind-test'))")
    assert {recipe: sum(one["shown"] for one in of.values()) for recipe, of in scores.items()} == {
        "tuned": 1,
        "book": 1,
    }


@pytest.mark.parametrize(
    ("view", "address", "image"),
    [
        ("watch?arch=wgan&version=1", "**/samples.png?**", "#sample"),
        ("compare", "**/generate?**scale=4", ".pictures img >> nth=0"),
        ("morph?from=1&to=2", "**/morph.png?**frames=16**", "#strip"),
    ],
)
def test_a_picture_that_fails_is_asked_for_again(visitor: Visitor, view: str, address: str, image: str) -> None:
    page = visitor.open("docs")
    lost: list[str] = []

    def lose(route: Route) -> None:
        lost.append(route.request.url)
        route.abort()

    page.route(address, lose, times=1)
    page.goto(view)
    expect(page.locator(image)).to_be_visible()
    page.wait_for_function(
        "selector => document.querySelector(selector).naturalWidth > 0", arg=image.partition(" >>")[0]
    )
    assert lost
    expect(page.locator("#notice")).to_have_text("")


def test_the_same_digit_again_after_a_seed(visitor: Visitor) -> None:
    page = visitor.open("morph?from=11&to=12")
    expect(page.locator("#position")).to_be_enabled()
    chosen, seed = page.locator("#from-digit"), page.locator("#from")
    for _ in range(2):
        chosen.select_option("3")
        expect(seed).not_to_have_value("11")
        seed.fill("11")
        seed.press("Tab")
        expect(chosen).to_have_value("")


# Notes when another epoch is shown.
NOTE_STEPS = """() => {
  window.steps = [];
  const note = () => window.steps.push(performance.now());
  new MutationObserver(note).observe(document.getElementById("shown"), { childList: true });
}"""

# The body of the next answer ends in its midst.
CUT = """kind => {
  const whole = Response.prototype[kind];
  Response.prototype[kind] = function () {
    Response.prototype[kind] = whole;
    return Promise.reject(new TypeError("network error"));
  };
}"""


def test_an_answer_that_is_cut_is_asked_for_again(visitor: Visitor) -> None:
    page = open_drawn(visitor)
    page.evaluate(CUT, "blob")
    page.get_by_label("How many").fill("4")
    expect(page.locator(".cells button")).to_have_count(4)
    assert page.locator("#sheet").get_attribute("aria-busy") is None
    listed = visitor.open("training")
    listed.evaluate(CUT, "text")
    expect(listed.locator("#notice")).to_contain_text("does not answer")
    with listed.expect_response("**/training"):
        pass  # the list is looked for again
    expect(listed.locator("#notice")).to_have_text("")


def test_a_problem_outlives_the_news_that_the_service_is_back(visitor: Visitor) -> None:
    page = open_drawn(visitor)
    problem = {"content_type": "application/problem+json", "body": '{"detail": "late"}'}
    page.route("**/generate?**", lambda route: route.fulfill(status=503, **problem), times=1)
    page.clock.install()
    page.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))
    page.get_by_label("How many").fill("4")
    page.clock.run_for(1_000)
    expect(page.locator("#notice")).to_contain_text("cannot be read just now")
    page.clock.run_for(2_000)
    expect(page.locator("#notice")).to_contain_text("answers again")
    page.route("**/generate?**", lambda route: route.fulfill(status=504, **problem), times=1)
    page.get_by_label("How many").fill("9")
    page.clock.run_for(1_000)
    expect(page.locator("#notice")).to_contain_text("took too long")
    page.clock.run_for(60_000)
    expect(page.locator("#notice")).to_contain_text("took too long")


def test_the_notice_of_a_picture_goes_with_the_picture(visitor: Visitor) -> None:
    page = visitor.open("watch?arch=wgan&version=1")
    expect(page.locator("#epoch")).to_be_enabled()
    problem = {"status": 504, "content_type": "application/problem+json", "body": '{"detail": "late"}'}
    page.route(re.compile("samples.png.epoch=5&"), lambda route: route.fulfill(**problem))
    page.locator("#epoch").fill("5")
    expect(page.locator("#notice")).to_contain_text("took too long")
    page.locator("#epoch").fill("6")
    expect(page.locator("#notice")).to_have_text("")


def test_one_animation_runs_at_a_time(visitor: Visitor) -> None:
    page = visitor.open("watch?arch=wgan&version=1")
    expect(page.locator("#epoch")).to_be_enabled()
    page.evaluate(NOTE_STEPS)
    for _ in range(5):
        page.locator("#play").click()  # Play, Pause, Play, Pause, Play
    eventually(lambda: len(page.evaluate("window.steps")) > 12, "it plays")
    steps = page.evaluate("window.steps")[4:]
    assert min(after - before for before, after in itertools.pairwise(steps)) > 100  # it waits 150 ms


@pytest.mark.usefixtures("without_jobs")
def test_what_is_sent_is_told_though_the_form_has_changed(visitor: Visitor, service: Service) -> None:
    page = visitor.open("training")
    page.locator("#order").get_by_text("Vanilla GAN").click()
    epochs = page.get_by_label("Epochs", exact=True)
    epochs.fill("900")
    with held(page, "**/train") as release:
        with page.expect_request("**/train"):
            page.get_by_role("button", name="Train", exact=True).click()
        epochs.fill("901")
        release()
        expect(page.locator("#answer")).to_contain_text("The job is queued")
    job = (page.locator("#answer a").get_attribute("href") or "").partition("job=")[2]
    assert service.job(job)["epochs"] == 900


@pytest.mark.usefixtures("without_jobs")
def test_the_job_is_canceled_that_was_chosen(visitor: Visitor, service: Service) -> None:
    """Though another dialog is open before the service answers again."""
    jobs = [service.train(arch="vanilla", epochs=500) for _ in range(2)]
    page = visitor.open("training")
    page.context.set_offline(True)
    page.locator(f"#job-{jobs[1]}").get_by_role("button").click()
    expect(page.locator("#cancel-job")).to_contain_text(jobs[1][:8])
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.locator("#notice")).to_contain_text("offline")
    page.locator(f"#job-{jobs[0]}").get_by_role("button").click()
    page.context.set_offline(False)
    service.wait_for(jobs[1], "canceled")
    assert not service.job(jobs[0])["cancel_requested"]


def test_the_language_is_chosen_once(visitor: Visitor) -> None:
    """Not again each time a view looks for news: another window may have another one since."""
    page = visitor.open("training?lang=ja&epochs=7")
    page.wait_for_url(re.compile(r"training\?epochs=7$"))
    other = page.context.new_page()
    other.goto("training?lang=en")
    with page.expect_response("**/training?**"):
        pass
    assert "lang=en" in other.evaluate("document.cookie")
    other.reload()
    expect(other.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("html")).to_have_attribute("lang", "en")  # it is opened again, not mixed


def test_a_picture_that_is_there_again_replaces_no_newer_one(visitor: Visitor) -> None:
    page = visitor.open("watch?arch=wgan&version=1")
    expect(page.locator("#epoch")).to_be_enabled()
    with held(page, re.compile("epoch=5&")) as release_old, held(page, re.compile("epoch=6&")) as release_new:
        page.route(re.compile("epoch=5&"), lambda route: route.abort(), times=1)
        with page.expect_request(re.compile("epoch=5&")), page.expect_request(re.compile("epoch=5&")):
            page.locator("#epoch").fill("5")  # fails at first, and is asked for again
        page.locator("#epoch").fill("6")
        with page.expect_response(re.compile("epoch=5&")):
            release_old()
        expect(page.locator("#sample")).to_have_attribute("src", re.compile("epoch=6&"))
        release_new()
    expect(page.locator("#sample")).to_have_attribute("src", re.compile("epoch=6&"))


def test_without_storage_the_score_lasts_as_long_as_the_page(visitor: Visitor) -> None:
    page = visitor.open("docs")
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get: () => { throw new Error('blocked'); } })"
    )
    page.goto("compare")
    for shown in (1, 2):
        expect(page.locator("#right img")).to_be_visible()
        expect(page.locator("#left")).not_to_have_attribute("aria-disabled", "true")
        page.locator("#left").click()
        scores = [cell.split(" of ")[1] for cell in page.locator("#score td").all_inner_texts() if cell != "–"]
        assert sum(map(int, scores)) == shown
        page.get_by_role("button", name="Next pair").click()


def test_the_notice_of_a_picture_goes_with_its_dialog(visitor: Visitor) -> None:
    page = open_drawn(visitor)
    problem = {"status": 504, "content_type": "application/problem+json", "body": '{"detail": "late"}'}
    page.route("**/neighbours.png?**seed=5&**", lambda route: route.fulfill(**problem))
    page.get_by_role("button", name="Image 1", exact=True).click()
    expect(page.locator("#notice")).to_contain_text("took too long")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Image 3", exact=True).click()
    expect(page.locator("#notice")).to_have_text("")


def test_an_order_goes_through_a_proxy_that_answers_for_a_service_that_starts(
    visitor: Visitor, service: Service
) -> None:
    page = visitor.open("training")
    page.route("**/train", lambda route: route.fulfill(status=504, body="<h1>Gateway Time-out</h1>"), times=1)
    page.get_by_label("Epochs", exact=True).fill("900")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("#answer")).to_contain_text("The job is queued")
    job = (page.locator("#answer a").get_attribute("href") or "").partition("job=")[2]
    service.api.delete(f"/jobs/{job}")
    service.wait_for(job, "canceled")


def test_a_wrong_seed_gives_way_to_a_digit(visitor: Visitor) -> None:
    page = visitor.open("morph?from=11&to=12")
    expect(page.locator("#position")).to_be_enabled()
    page.locator("#from").fill("-3")
    page.locator("#from").press("Tab")
    expect(page.locator("#mistake")).to_have_text("From: at least 0.")
    page.locator("#from-digit").select_option("5")
    expect(page.locator("#mistake")).to_have_text("")
    expect(page.locator("#caption")).not_to_contain_text("from seed 11 ")
