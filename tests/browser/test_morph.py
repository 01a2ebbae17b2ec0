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


def test_from_a_3_to_an_8_and_to_any_other_digit(visitor: Visitor) -> None:
    page = visitor.open("morph?arch=dcgan")
    chosen = {"from": 3, "to": 8}  # at first
    for end in ("from", "to"):
        expect(page.locator(f"#{end}-digit")).to_have_value(str(chosen[end]))
    expect(page.locator("#position")).to_be_enabled()
    for other in ({}, {"from": 5}, {"to": 0}):
        for end, digit in other.items():
            before = page.locator("#strip").get_attribute("src") or ""
            page.locator(f"#{end}-digit").select_option(str(digit))
            expect(page.locator("#strip")).not_to_have_attribute("src", before)
        chosen |= other
        for end, digit in chosen.items():
            query = f"arch=dcgan&n=1&seed={page.locator(f'#{end}').input_value()}"
            answer = page.request.get(f"generate?{query}", headers={"Accept": "application/json"}).json()
            assert answer["images"][0]["digit"] == digit


def test_another_version_keeps_the_recipe_and_a_missing_one_is_told(visitor: Visitor) -> None:
    page = visitor.open("morph?arch=wgan&version=2&from=3&to=8")  # of recipe book
    expect(page.locator("#caption")).to_contain_text("WGAN-GP version 2")
    page.get_by_text("DCGAN").click()
    expect(page.locator("#caption")).to_contain_text("DCGAN version 2")  # of book, too
    page.goto("morph?arch=wgan&version=99&from=3&to=8")
    expect(page.locator("#caption")).to_contain_text("WGAN-GP version 3")
    expect(page.locator(".result .problem")).to_contain_text("Version 99 of WGAN-GP cannot be used")


def test_a_wrong_seed_is_explained(visitor: Visitor) -> None:
    page = visitor.open("morph?arch=wgan&from=3&to=8")
    expect(page.locator("#position")).to_be_enabled()
    for wrong, sentence in {
        "-3": "From: at least 0.",
        "1.5": "From: a whole number.",
        "": "From: a whole number.",
    }.items():
        page.locator("#from").fill(wrong)
        page.locator("#from").press("Tab")
        expect(page.locator("#mistake")).to_have_text(sentence)


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
    assert saved.value.suggested_filename == "vanilla-v1-1-2.webp"
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
