"""Draw: the picture, its digits, what they are, and the same in code."""

import io
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visitor
from tests.system.conftest import Service


def read_size(page: Page) -> tuple[int, int]:
    width, height = page.locator("#picture").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    return width, height


def wait_for_cells(page: Page, count: int) -> None:
    expect(page.locator(".cells button")).to_have_count(count)


def test_the_first_picture_is_there_at_once_and_follows_the_form(visitor: Visitor) -> None:
    page = visitor.open()
    wait_for_cells(page, 16)
    assert read_size(page) == (4 * 114 - 2, 4 * 114 - 2)
    page.get_by_label("How many").fill("4")
    wait_for_cells(page, 4)
    assert read_size(page) == (2 * 114 - 2, 2 * 114 - 2)
    page.get_by_text("DCGAN").click()
    expect(page.locator("#caption")).to_contain_text("DCGAN")
    seed = page.get_by_label("Seed", exact=True).input_value()
    page.get_by_role("button", name="Same seed").click()
    expect(page.locator("#sheet")).not_to_have_attribute("aria-busy", "true")
    assert page.get_by_label("Seed", exact=True).input_value() == seed
    page.get_by_role("button", name="New digits").click()
    expect(page.get_by_label("Seed", exact=True)).not_to_have_value(seed)


def test_the_link_reproduces_the_picture(visitor: Visitor, service: Service) -> None:
    page = visitor.open()
    page.get_by_role("button", name="New digits").click()
    wait_for_cells(page, 16)
    expect(page.locator("#picture")).to_have_attribute("src", re.compile("^blob:"))
    link = page.get_by_role("link", name="Link to this picture").get_attribute("href")
    assert link
    query = parse_qs(urlsplit(link).query)
    assert query["version"] == ["3"]
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save").click()
    again = visitor.open(link)
    source = again.locator("#picture").get_attribute("src")
    assert source
    assert service.api.get(f"/{source}").content == saved.value.path().read_bytes()


def test_digits_by_value_and_numbers(visitor: Visitor) -> None:
    page = visitor.open()
    page.locator(".pad").get_by_text("7", exact=True).click()
    expect(page.locator("#code-curl")).to_contain_text("digit=7")
    page.get_by_role("button", name="Image 3", exact=True).click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator("tbody td").nth(1).inner_text() == "7"
    dialog.get_by_role("button", name="Close").click()
    page.get_by_label("Or write a number").fill("2026")
    wait_for_cells(page, 1)
    page.get_by_role("button", name="Image 1", exact=True).click()
    expect(dialog.locator("tbody tr")).to_have_count(4)
    assert [row.inner_text() for row in dialog.locator("tbody td:nth-child(2)").all()] == ["2", "0", "2", "6"]


def test_a_digit_says_its_seed_value_and_confidence_and_can_be_saved(visitor: Visitor, service: Service) -> None:
    page = visitor.open("?arch=wgan&version=3&n=9&seed=100")
    page.get_by_role("button", name="Image 5", exact=True).click()
    dialog = page.get_by_role("dialog")
    (image,) = service.api.get(
        "/generate?arch=wgan&version=3&n=1&seed=104", headers={"Accept": "application/json"}
    ).json()["images"]
    expect(dialog.locator("tbody td")).to_have_count(3)
    seed, digit, confidence = (cell.inner_text() for cell in dialog.locator("tbody td").all())
    assert (seed, digit) == ("104", str(image["digit"]))
    assert float(confidence.rstrip("%")) / 100 <= image["confidence"]
    neighbours = dialog.get_by_role("img", name=re.compile("Neighbours"))
    assert neighbours.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    with page.expect_download() as saved:
        dialog.get_by_role("link", name="Save").click()
    assert saved.value.suggested_filename == "wgan-v3-seed104.png"
    with Image.open(saved.value.path()) as image_file:
        assert image_file.size == (224, 224)


def test_many_digits(visitor: Visitor) -> None:
    page = visitor.open("?arch=vanilla&n=1024&scale=1&seed=0")
    wait_for_cells(page, 1024)
    page.get_by_role("button", name="Image 1024", exact=True).click()
    expect(page.get_by_role("dialog").locator("tbody td").first).to_have_text("1023")


def test_the_code_draws_the_picture(visitor: Visitor, service: Service, tmp_path: Path) -> None:
    page = visitor.open("?arch=dcgan&n=4&seed=3&scale=2")
    wait_for_cells(page, 4)
    expected = service.api.get("/generate?arch=dcgan&n=4&seed=3&scale=2&version=1").content
    curl = page.locator("#code-curl").inner_text()
    subprocess.run(["bash", "-c", curl], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "digits.png").read_bytes() == expected
    (tmp_path / "digits.png").unlink()
    page.get_by_text("Python").click()
    subprocess.run([sys.executable, "-c", page.locator("#code-Python").inner_text()], cwd=tmp_path, check=True)
    assert (tmp_path / "digits.png").read_bytes() == expected
    page.get_by_text("JavaScript").click()
    script = page.locator("#code-JavaScript").inner_text()
    size = page.evaluate(f"(async () => {{ {script}; return picture.size; }})()")
    assert size == len(expected)
    assert Image.open(io.BytesIO(expected)).size == (2 * 58 - 2, 2 * 58 - 2)


def test_copy(visitor: Visitor) -> None:
    page = visitor.open("?seed=5", permissions=["clipboard-read", "clipboard-write"])
    wait_for_cells(page, 16)
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#code-curl").inner_text()


def test_without_scripts(visitor: Visitor) -> None:
    page = visitor.open(java_script_enabled=False)
    page.get_by_label("DCGAN").check(force=True)
    page.get_by_label("How many").fill("9")
    page.get_by_role("button", name="New digits").click()
    picture = page.locator("#picture")
    address = picture.get_attribute("src")
    assert address
    assert "arch=dcgan" in address
    answer = httpx.get(f"{visitor.base}{address}")
    assert answer.headers["X-Arch"] == "dcgan"
    assert picture.bounding_box()
    page.get_by_role("link", name="Train").click()
    expect(page.get_by_text("No job yet.")).to_be_visible()


def test_keyboard_alone(visitor: Visitor) -> None:
    page = visitor.open("?seed=0")
    wait_for_cells(page, 16)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")  # into the generators
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("DCGAN")).to_be_checked()
    expect(page.locator("#caption")).to_contain_text("DCGAN")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.cells button')"):
            break
    for key, name in (("ArrowRight", "Image 2"), ("ArrowDown", "Image 6"), ("ArrowLeft", "Image 5")):
        page.keyboard.press(key)
        expect(page.get_by_role("button", name=name, exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Image 5", exact=True)).to_be_focused()


def test_each_digit_of_a_number_has_its_neighbours(visitor: Visitor) -> None:
    page = visitor.open("?arch=wgan&version=3&text=42&seed=3")
    wait_for_cells(page, 1)
    expect(page.locator("#caption")).to_contain_text("42, written by WGAN-GP version 3")
    page.get_by_role("button", name="Image 1", exact=True).click(position={"x": 3, "y": 3})
    dialog = page.get_by_role("dialog")
    neighbours = dialog.get_by_role("img", name=re.compile("^Neighbours"))
    expect(dialog.locator("tbody tr")).to_have_count(2)
    seeds = dialog.locator("tbody td:first-child").all_inner_texts()
    expect(neighbours).to_have_attribute("src", re.compile(f"seed={seeds[0]}&"))
    dialog.get_by_role("button", name=f"Neighbours of seed {seeds[1]}").click()
    expect(neighbours).to_have_attribute("src", re.compile(f"seed={seeds[1]}&"))


def test_a_wrong_number_is_explained_where_it_is_typed(visitor: Visitor) -> None:
    page = visitor.open("?seed=5", locale="ja-JP")
    wait_for_cells(page, 16)
    page.locator("#n").fill("5000")
    expect(page.locator("#mistake")).to_have_text("枚数：1024 以下にしてください。")
    page.locator("#n").fill("4")
    expect(page.locator("#mistake")).to_have_text("")
    wait_for_cells(page, 4)


def test_what_cannot_be_drawn_has_no_code(visitor: Visitor) -> None:
    visitor.may_lose = True  # it is a 422
    page = visitor.open("?n=5000")
    expect(page.get_by_text("How many: at most 1024.")).to_be_visible()
    expect(page.locator("#code-curl")).to_be_hidden()
    page.locator("#n").fill("4")
    expect(page.locator("#code-curl")).to_contain_text("n=4")
    expect(page.locator("#code-curl")).to_be_visible()


def test_copy_without_a_clipboard(visitor: Visitor) -> None:
    """Browsers give none to pages of other hosts without https."""
    page = visitor.open("?seed=5")
    wait_for_cells(page, 16)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("getSelection().toString()") == page.locator("#code-curl").inner_text()


@pytest.mark.parametrize("typed", ["０９０１", "09-01", "+0 (901)"])
def test_a_number_is_read_as_people_write_it(visitor: Visitor, typed: str) -> None:
    page = visitor.open("?seed=5")
    wait_for_cells(page, 16)
    page.locator("#text").press_sequentially(typed)
    expect(page.locator("#text")).to_have_value("0901")
    expect(page.locator("#caption")).to_contain_text("0901, written by")
    unscripted = visitor.open(f"?{urlencode({'text': typed})}", java_script_enabled=False)
    expect(unscripted.locator("#caption")).to_contain_text("0901, written by")


def test_a_click_on_a_number_opens_the_digit_there(visitor: Visitor) -> None:
    page = visitor.open("?arch=wgan&version=3&text=31415&seed=3")
    wait_for_cells(page, 1)
    cell = page.get_by_role("button", name="Image 1", exact=True)
    box = cell.bounding_box()
    assert box
    cell.click(position={"x": box["width"] * 0.97, "y": 10})
    dialog = page.get_by_role("dialog")
    last = dialog.locator("tbody button").last
    expect(last).to_have_attribute("aria-pressed", "true")
    href = dialog.get_by_role("link", name="Morph from here").get_attribute("href") or ""
    assert href.endswith(f"from={last.inner_text()}")


def test_many_digits_are_shown_without_scripts(visitor: Visitor) -> None:
    """Browsers prefer WebP, which cannot hold them: they come as PNG."""
    page = visitor.open("?n=400&seed=5&scale=4", java_script_enabled=False)
    assert page.locator("#picture").evaluate("image => image.complete && image.naturalWidth") == 20 * 114 - 2


def test_versions_and_scale_are_chosen_in_the_form(visitor: Visitor) -> None:
    page = visitor.open("?seed=5")
    wait_for_cells(page, 16)
    page.get_by_label("Version").select_option("2")  # of recipe book
    expect(page.locator("#caption")).to_contain_text("WGAN-GP version 2")
    page.get_by_text("DCGAN").click()
    expect(page.locator("#caption")).to_contain_text("DCGAN version 2")  # of book, too
    page.get_by_label("Version").select_option("latest")
    page.get_by_text("Vanilla GAN").click()
    expect(page.get_by_label("Version")).to_have_value("latest")
    page.get_by_label("Scale").fill("2")
    expect(page.locator("#picture")).to_have_attribute("width", str(4 * 58 - 2))


def test_what_is_saved_is_what_its_name_says(visitor: Visitor) -> None:
    """Browsers prefer WebP, also for downloads."""
    page = visitor.open("?arch=wgan&version=3&seed=5")
    wait_for_cells(page, 16)
    page.get_by_role("button", name="Image 1", exact=True).click()
    for link in (page.get_by_role("dialog").get_by_role("link", name="Save"), page.locator("#save")):
        with page.expect_download() as saved:
            link.dispatch_event("click")
        name, content = saved.value.suggested_filename, saved.value.path().read_bytes()
        assert name.endswith(".png") is content.startswith(b"\x89PNG"), name
        assert name.endswith(".webp") is (content[8:12] == b"WEBP"), name
