"""The pictures of the page in README.md: starts the API and a Chromium, and looks at two views.

.venv/bin/python -m docs.make_screenshots
"""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.processes import running_api

DOCS = Path(__file__).parent
COLORS = 96  # of a file; there are few in it
SIZE = {"width": 1120, "height": 700}


def open_digit(page: Page) -> None:
    page.locator(".cells button >> nth=15").wait_for()
    page.get_by_role("button", name="Image 3", exact=True).focus()


def choose_epoch(page: Page) -> None:
    page.locator("#epoch:enabled").wait_for()
    page.locator("#epoch").fill("60")
    page.locator("#sample").evaluate("image => image.decode()")


VIEWS = {
    "page-draw.png": ("?arch=wgan&version=3&n=25&scale=4&seed=300", "light", open_digit),
    "page-watch.png": ("watch?arch=wgan&version=3", "dark", choose_epoch),
}


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_api(Path(folder), DIGITS_MODEL_DIR=folder) as api,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (address, scheme, prepare) in VIEWS.items():
            page = browser.new_page(viewport=SIZE, color_scheme=scheme, locale="en-US")  # type: ignore[arg-type]
            page.goto(f"{api.base_url}/{address}")
            prepare(page)
            with Image.open(io.BytesIO(page.screenshot())) as picture:
                picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(DOCS / name, optimize=True)
        browser.close()


if __name__ == "__main__":
    main()
