"""Compare: four columns from the same seeds, and the blind test."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visitor


def open_compare(visitor: Visitor) -> Page:
    page = visitor.open("compare?seed=5")
    expect(page.locator("#left img")).to_be_visible()
    return page


def test_all_pictures_are_there_and_from_the_same_seeds(visitor: Visitor) -> None:
    page = open_compare(visitor)
    pictures = page.locator(".pictures img")
    assert pictures.count() == 7  # three generators, two recipes, and real digits
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 4 * 114 - 2
        assert "seed=5&" in (picture.get_attribute("src") or "")
    assert page.locator(".pictures").get_by_role("columnheader").count() == 4
    page.get_by_role("link", name="Other seeds").click()
    page.wait_for_url(re.compile(r"seed=\d+"))


def test_every_fact_is_there_with_a_sentence(visitor: Visitor) -> None:
    page = open_compare(visitor)
    rows = {row.locator("th b").inner_text(): row for row in page.locator("tbody tr:has(th b)").all()}
    assert list(rows) == [
        "Parameters", "Epochs", "Training here", "Training on Colab",
        "FID", "Precision", "Recall", "Balance", "Earth mover's distance", "Critic's estimate",
    ]  # fmt: skip
    for row in rows.values():
        assert row.locator("th small").inner_text().endswith(".")
    assert [cell.inner_text() for cell in rows["Training on Colab"].locator("td").all()[:3]] == [
        "22 min", "36 min", "2 h 51 min",
    ]  # fmt: skip
    assert rows["FID"].locator("td").nth(3).inner_text() == "0.96"


@pytest.mark.parametrize("by", ["click", "key"])
def test_the_blind_test_keeps_score(visitor: Visitor, by: str) -> None:
    page = open_compare(visitor)
    rounds = 6
    for _ in range(rounds):
        expect(page.locator("#left")).to_be_enabled()
        if by == "click":
            page.locator("#left").click()
        else:
            page.locator("#test").scroll_into_view_if_needed()
            page.keyboard.press("ArrowRight")
        expect(page.locator("#verdict")).to_contain_text(re.compile("fooled you|Right"))
        assert page.locator(".pair .real").count() == page.locator(".pair .fake").count() == 1
        page.get_by_role("button", name="Next pair").click()
    scores = page.locator("#score td").all_inner_texts()
    shown = [tuple(map(int, score.split(" of "))) for score in scores if score != "–"]
    assert sum(total for _, total in shown) == rounds
    assert all(0 <= fooled <= total for fooled, total in shown)
    page.reload()
    expect(page.locator("#score td").first).to_be_visible()
    assert page.locator("#score td").all_inner_texts() == scores
    page.get_by_role("button", name="Forget this score").click()
    assert page.locator("#score td").all_inner_texts() == ["–"] * 3


def test_neither_address_says_which_one_is_real(visitor: Visitor) -> None:
    page = open_compare(visitor)
    for side in ("#left", "#right"):
        assert (page.locator(f"{side} img").get_attribute("src") or "").startswith("blob:")
    sizes = [page.locator(f"{side} img").evaluate("image => image.naturalWidth") for side in ("#left", "#right")]
    assert sizes[0] == sizes[1]


def test_the_score_is_of_the_generator_that_drew(visitor: Visitor) -> None:
    page = visitor.open("docs")
    drawn: list[str] = []
    page.on("request", lambda one: drawn.extend(re.findall(r"generate\?arch=(\w+)&.*scale=6", one.url)))
    page.goto("compare")
    names = {"vanilla": "Vanilla GAN", "dcgan": "DCGAN", "wgan": "WGAN-GP"}
    expect(page.locator("#right img")).to_be_visible()
    (arch,) = drawn
    page.locator("#right").click()
    is_fooled = "fooled you" in page.locator("#verdict").inner_text()
    assert names[arch] in page.locator("#verdict").inner_text()
    for name in names.values():
        row = page.locator("#score tr", has=page.get_by_role("rowheader", name=name))
        expect(row.locator("td")).to_have_text(f"{int(is_fooled)} of 1" if name == names[arch] else "–")
