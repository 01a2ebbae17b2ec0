"""How soon the page is readable in a browser that has just been started, and how much it loads.

Starts `digits serve` in one process, and a new Chromium for each visit. Prints the median and the worst of: the
first text or picture (FCP), the largest one (LCP), the end of the first picture, and the bytes over the wire.

    .venv/bin/python -m benchmarks.page --visits 20
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from tests.processes import running_api

READ = """() => new Promise((resolve) => {
  new PerformanceObserver((list) => {
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    const picture = performance.getEntriesByType("resource").find(({ name }) => name.includes("generate?"));
    resolve([paint.startTime, list.getEntries().at(-1).startTime, picture.responseEnd]);
  }).observe({ type: "largest-contentful-paint", buffered: true });
})"""


def visit(browser: Browser, address: str) -> list[float]:
    """Milliseconds until FCP, LCP, and the end of the picture; then the bytes."""
    page = browser.new_page()
    session = page.context.new_cdp_session(page)
    sent: list[float] = []
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: sent.append(event["encodedDataLength"]))
    page.goto(address)
    page.locator(".cells button").first.wait_for()
    return [*page.evaluate(READ), sum(sent)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=20)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium")
    assert chromium, "apt-get install chromium"
    visits = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_api(Path(folder), DIGITS_MODEL_DIR=folder) as api,
        sync_playwright() as playwright,
    ):
        for _ in range(arguments.visits):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            visits.append(visit(browser, f"{api.base_url}/"))
            browser.close()
    for name, values in zip(("FCP, ms", "LCP, ms", "picture, ms", "bytes"), np.array(visits).T, strict=True):
        print(f"{name:12} median {np.median(values):8,.0f}   worst {values.max():8,.0f}")


if __name__ == "__main__":
    main()
