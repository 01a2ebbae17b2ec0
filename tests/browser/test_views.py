"""Every view: for people who use a keyboard, a screen reader, a telephone, another language, the dark."""

import io
import re

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visitor
from tests.system.conftest import Service

VIEWS = {  # the address of each, and what is there once its script has run
    "draw": ("?seed=1", ".cells button >> nth=15"),
    "compare": ("compare", "#right img"),
    "training": ("training", "#order"),
    "morph": ("morph?from=3&to=8", "#position:enabled"),
    "replay": ("watch?arch=wgan&version=1", "#epoch:enabled"),
    "missing": ("watch?arch=wgan&version=999", "main .problem"),
}
WIDTHS = (360, 768, 1280, 3840)


def open_view(visitor: Visitor, name: str, **options: object) -> Page:
    address, ready = VIEWS[name]
    visitor.may_lose = name == "missing"
    page = visitor.open(address, **options)
    page.locator(ready).wait_for()
    return page


def find_violations(page: Page) -> list[str]:
    """What axe-core finds, in the light and in the dark."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        result = Axe().run(page)
        found += [result.generate_report()] if result.violations_count else []
    return found


@pytest.mark.parametrize("name", VIEWS)
def test_axe_finds_nothing(visitor: Visitor, name: str) -> None:
    page = open_view(visitor, name)
    assert find_violations(page) == []
    if name == "draw":
        page.get_by_role("button", name="Image 1", exact=True).click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert find_violations(page) == []


def test_axe_finds_nothing_in_a_list_of_jobs(visitor: Visitor, service: Service) -> None:
    job = service.train(arch="vanilla", epochs=500)
    service.wait_for(job, "running")
    page = visitor.open("training")
    for address in ("training", f"watch?job={job}"):
        page.goto(address)
        expect(page.get_by_role("button", name="Cancel")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        assert find_violations(page) == []
        page.keyboard.press("Escape")
        assert find_violations(page) == []
    service.api.delete(f"/jobs/{job}")
    service.wait_for(job, "canceled")


@pytest.mark.parametrize("name", VIEWS)
def test_nothing_is_wider_than_the_window(visitor: Visitor, name: str) -> None:
    page = open_view(visitor, name)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", VIEWS)
def test_japanese(visitor: Visitor, name: str) -> None:
    page = open_view(visitor, name, locale="ja-JP")
    assert page.locator("html").get_attribute("lang") == "ja"
    text = page.locator("nav, h1, legend, button:visible").all_inner_texts()
    japanese = [one for one in text if re.search("[ぁ-んァ-ヶ一-龠]", one)]
    assert len(japanese) >= 2
    page.get_by_role("link", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "en")


@pytest.mark.parametrize("name", VIEWS)
def test_everything_can_be_reached_by_keyboard_and_shows_its_focus(visitor: Visitor, name: str) -> None:
    page = open_view(visitor, name)
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        at = page.evaluate(
            """() => {
              const one = document.activeElement;
              const shown = one.matches(".archs input, .pad input") ? one.nextElementSibling : one;
              const { outlineStyle } = getComputedStyle(shown);
              one.dataset.reached = "yes";
              return [one.tagName, outlineStyle];
            }"""
        )
        if at[0] == "BODY":
            break
        reached.add(tuple(at))
    assert reached
    assert {style for _, style in reached} <= {"solid", "auto"}, reached
    missed = page.locator("a[href]:visible, button:visible:enabled, select:visible, summary:visible").evaluate_all(
        "all => all.filter((one) => !one.dataset.reached && one.tabIndex >= 0).map((one) => one.outerHTML)"
    )
    assert missed == []


def test_the_menu_leads_to_all_views(visitor: Visitor) -> None:
    page = visitor.open()
    for name in ("Compare", "Train", "Morph", "Draw"):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("link", name=name, exact=True)).to_have_attribute("aria-current", "page")
    page.get_by_role("link", name="API").click()
    expect(page.locator("#swagger-ui")).to_contain_text("/generate")


def test_the_first_view_is_readable_soon(visitor: Visitor) -> None:
    """Text and picture need no script: they are in the first answer, and the style is the only file they wait for."""
    page = visitor.open(java_script_enabled=False)
    assert page.get_by_role("heading").count() >= 1
    assert page.locator("#picture").evaluate("image => image.complete && image.naturalWidth") == 4 * 114 - 2


def test_curves_are_shown_as_they_were_drawn(visitor: Visitor) -> None:
    """Opened by their address, too: their policy lets their own styles be, and nothing else."""
    page = visitor.open("models/wgan/1/curves.svg")
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        assert np.asarray(picture.convert("L")).mean() > 200  # a white figure
