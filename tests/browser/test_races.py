"""Answers that come late, fail or overtake each other: what is shown fits what was asked last."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Visitor


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


def test_a_large_seed_makes_room_for_a_digit(visitor: Visitor) -> None:
    page = open_drawn(visitor, "?seed=99999")
    page.locator(".pad").get_by_text("3", exact=True).click()
    expect(page.locator("#code-curl")).to_contain_text("digit=3")
    assert int(page.get_by_label("Seed", exact=True).input_value()) < 65_536


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
        page.get_by_label("Generators").select_option("book")
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
        ("compare", "**/generate?**scale=2", ".pictures img >> nth=0"),
        ("morph?from=1&to=2", "**/morph.png?**frames=16**", "#strip"),
    ],
)
def test_a_picture_that_fails_is_asked_for_again(visitor: Visitor, view: str, address: str, image: str) -> None:
    page = visitor.open("docs")
    page.route(address, lambda route: route.abort(), times=1)
    page.goto(view)
    expect(page.locator(image)).to_be_visible()
    page.wait_for_function(
        "selector => document.querySelector(selector).naturalWidth > 0", arg=image.partition(" >>")[0]
    )
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
