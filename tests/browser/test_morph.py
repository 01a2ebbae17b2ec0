"""Morph: two seeds or two digits, and the way between them."""

from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, expect

from tests.browser.conftest import Visitor

# The pixels of the canvas, as one number a pixel.
READ = "canvas => [...canvas.getContext('2d').getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0)"


def read_pixels(page: Page) -> list[int]:
    pixels: list[int] = page.locator("#canvas").evaluate(READ)
    return pixels


def move(page: Page, key: str) -> list[int]:
    page.locator("#position").focus()
    page.keyboard.press(key)
    return read_pixels(page)


def test_the_slider_goes_from_one_digit_to_the_other(visitor: Visitor) -> None:
    page = visitor.open("morph?arch=wgan&from=3&to=8")
    expect(page.locator("#position")).to_be_enabled()
    first, last = move(page, "Home"), move(page, "End")
    assert max(first) > 200
    assert first != last
    page.get_by_role("button", name="Swap").click()
    expect(page.locator("#from")).to_have_value("8")
    expect(page.locator("#position")).to_have_value("0")
    assert read_pixels(page) == last
    assert move(page, "End") == first


def test_from_a_3_to_an_8(visitor: Visitor) -> None:
    page = visitor.open("morph?arch=dcgan")
    expect(page.locator("#position")).to_be_enabled()
    for end, digit in (("from", 3), ("to", 8)):
        before = page.locator("#strip").get_attribute("src") or ""
        page.locator(f"#{end}-digit").select_option(str(digit))
        expect(page.locator("#strip")).not_to_have_attribute("src", before)
    for end, digit in (("from", 3), ("to", 8)):
        seed = page.locator(f"#{end}").input_value()
        answer = page.request.get(f"generate?arch=dcgan&n=1&seed={seed}", headers={"Accept": "application/json"}).json()
        assert answer["images"][0]["digit"] == digit


def test_play_and_save(visitor: Visitor) -> None:
    page = visitor.open("morph?arch=vanilla&from=1&to=2")
    expect(page.locator("#position")).to_be_enabled()
    page.get_by_role("button", name="Play").click()
    expect(page.locator("#position")).not_to_have_value("0")
    page.get_by_role("button", name="Pause").click()
    href = page.get_by_role("link", name="Save the animation").get_attribute("href") or ""
    assert parse_qs(urlsplit(href).query)["version"] == ["1"]
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save the animation").click()
    assert saved.value.path().read_bytes()[8:12] == b"WEBP"


def test_a_digit_opens_it(visitor: Visitor) -> None:
    page = visitor.open("?seed=7")
    page.get_by_role("button", name="Image 2", exact=True).click()
    page.get_by_role("dialog").get_by_role("link", name="Morph from here").click()
    expect(page.locator("#from")).to_have_value("8")


def test_without_scripts(visitor: Visitor) -> None:
    page = visitor.open("morph?arch=wgan&from=3&to=8", java_script_enabled=False)
    picture = page.get_by_role("img", name="The digit between seed 3 and seed 8")
    assert "morph.webp" in (picture.get_attribute("src") or "")
