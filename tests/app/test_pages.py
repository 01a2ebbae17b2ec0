"""The page as the API sends it, without a browser: addresses, headers, languages, and what forms get back."""

import gzip
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from app.routes import drawing, pages
from app.static import FOLDER
from app.views import MENU, ROUTES
from tests.processes import eventually, running_api
from worker.jobs import JobStore, TrainRequest
from worker.recipes import ArchName

REPLAY = "watch?arch=wgan&version=1"
PATHS = [*(address.removeprefix("./") for address in MENU.values()), REPLAY]
FIRST_VIEW_BYTES = 100_000  # with its first picture


@pytest.fixture
def api(api: httpx.Client) -> Iterator[httpx.Client]:
    """A client of its own for each test: the page keeps the language in a cookie."""
    with httpx.Client(base_url=api.base_url, timeout=30) as client:
        yield client


def list_addresses(page: str) -> set[str]:
    return {unescape(found) for found in re.findall(r'(?:src|href|action)="([^"#]+)"', page)}


@pytest.mark.parametrize("path", PATHS)
def test_all_that_a_view_names_is_relative_and_there(api: httpx.Client, path: str) -> None:
    page = api.get(f"/{path}")
    assert page.status_code == 200
    for address in list_addresses(page.text):
        assert urljoin("http://host/prefix/", address).startswith("http://host/prefix/"), address
        found = api.get(urljoin(f"http://host/{path}", address).removeprefix("http://host"))
        assert found.status_code == 200, address


@pytest.mark.parametrize("path", PATHS)
def test_nothing_from_elsewhere_may_run(api: httpx.Client, path: str) -> None:
    page = api.get(f"/{path}")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:|https?://", page.text.replace(str(api.base_url), ""))
    scripts = re.findall(r"<script([^>]*)>", page.text)
    assert all('src="static/' in script or 'type="application/json"' in script for script in scripts)


def test_the_first_view_is_small(api: httpx.Client) -> None:
    page = api.get("/").text
    addresses = {address for address in list_addresses(page) if address.startswith(("static/", "generate?"))}
    modules = {path.name for path in FOLDER.glob("*.js")}
    build = re.search(r"static/\w+/", page)
    assert build
    todo, seen = [f"{build[0]}draw.js"], set()
    while todo:  # what the first script imports
        address = todo.pop()
        seen.add(address)
        imported = re.findall(r'from "\./(\w+\.js)"', api.get(f"/{address}").text)
        todo += [f"{build[0]}{name}" for name in imported if f"{build[0]}{name}" not in seen]
    assert {address.rpartition("/")[2] for address in seen} < modules
    sent = len(page.encode())
    for address in addresses | seen:
        with api.stream("GET", f"/{address}", headers={"Accept-Encoding": "gzip"}) as answer:
            sent += len(b"".join(answer.iter_raw()))
    assert sent <= FIRST_VIEW_BYTES


def test_its_own_files_are_kept_for_ever_and_packed(api: httpx.Client) -> None:
    build = re.search(r'static/(\w+)/page.css"', api.get("/").text)
    assert build
    plain = (FOLDER / "page.css").read_bytes()
    for encoding in ("gzip", "identity"):
        with api.stream("GET", f"/static/{build[1]}/page.css", headers={"Accept-Encoding": encoding}) as answer:
            body = b"".join(answer.iter_raw())
        assert (gzip.decompress(body) if encoding == "gzip" else body) == plain
        assert answer.headers["Content-Type"].startswith("text/css")
        assert "immutable" in answer.headers["Cache-Control"]
    assert api.get("/static/before/page.css").headers["Cache-Control"] == "no-cache"
    for name in ("pages.py", "..%2Froutes%2Fpages.py", "nothing.js"):
        assert api.get(f"/static/{build[1]}/{name}").status_code == 404


def test_languages(api: httpx.Client) -> None:
    english, japanese = api.get("/compare").text, api.get("/compare", headers={"Accept-Language": "ja,en;q=0.5"}).text
    assert '<html lang="en">' in english
    assert '<html lang="ja">' in japanese
    chosen = api.get("/compare?lang=ja&seed=5").text
    assert '<html lang="ja">' in chosen
    assert 'href="?seed=5&amp;lang=en"' in chosen  # the switch keeps what is shown
    assert '<html lang="ja">' in api.get("/").text  # and is remembered
    assert "Set-Cookie" not in api.get("/compare?lang=xx").headers


def get_input(page: str, name: str) -> str:
    found = re.search(rf'<input[^>]*name="{name}"[^>]*value="([^"]*)"', page)
    assert found, name
    return found[1]


def test_the_form_draws_without_scripts(api: httpx.Client) -> None:
    page = api.get("/?arch=dcgan&n=9&seed=7&scale=2").text
    assert 'src="generate?arch=dcgan&amp;n=9&amp;scale=2&amp;seed=7&amp;version=1"' in page
    assert re.search(r'value="dcgan" checked', page)
    again = api.get("/?arch=dcgan&n=9&seed=7&scale=2&again=1").text
    assert get_input(again, "seed") not in ("", "7")
    by_value = api.get("/?text=31415&again=1").text
    assert "text=31415" in by_value
    assert get_input(by_value, "n") == "1"


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("n=5000", "How many: at most 1024."),
        ("n=0", "How many: at least 1."),
        ("scale=9", "Scale: at most 8."),
        ("seed=-1", "Seed: at least 0."),
        ("digit=3&text=31", "Choose a digit or write a number, not both."),
        ("text=abc", "Number: only the digits 0 to 9."),
        ("text=0123456789&n=1024", "Number: at most 1 digits with so many lines."),
        ("n=abc", "How many: a whole number."),
        ("digit=3&seed=99999", "Seed: at most 65535."),
        ("arch=nothing", "Generator"),
        (
            "arch=wgan&version=999",
            "Version 999 of WGAN-GP cannot be used (wgan has no version 999). Here is the best one instead.",
        ),
    ],
)
def test_a_mistake_is_explained_and_what_was_typed_stays(api: httpx.Client, query: str, sentence: str) -> None:
    answer = api.get(f"/?{query}")
    assert answer.status_code == 422
    (problem,) = re.findall(r'<p class="problem" role="alert">(.*?)</p>', answer.text)
    assert sentence in unescape(problem)
    name, _, value = query.split("&")[-1].partition("=")
    if name in ("n", "scale", "seed", "text"):
        assert get_input(answer.text, name) == value


def test_what_is_typed_cannot_become_a_part_of_the_page(api: httpx.Client) -> None:
    attack = '"><script>alert(1)</script>'
    for path in ("/", "/compare", "/training", "/morph", "/watch"):
        for name in ("arch", "version", "text", "seed", "from", "job", "lang", "n"):
            page = api.get(path, params={name: attack})
            assert attack not in page.text, (path, name)
            assert page.status_code in (200, 404, 422)


def test_the_list_of_jobs_needs_no_scripts(api: httpx.Client, store: JobStore) -> None:
    assert "No job yet." in api.get("/training").text
    job, _ = store.create(TrainRequest(arch=ArchName("dcgan"), epochs=7))
    page = api.get("/training").text
    assert f'href="watch?job={job.id}"' in page
    assert "epoch 0 of 7" in page
    assert "No worker is running" in page
    shown = api.get(f"/watch?job={job.id}").text
    assert "epoch 0 of 7" in shown
    store.cancel(job.id)
    assert "canceled" in api.get("/training").text


def test_a_job_or_version_that_is_not_there(api: httpx.Client, store: JobStore) -> None:
    assert "There is no such job" in api.get("/watch?job=nothing").text
    assert api.get("/watch").status_code == 404
    assert api.get("/watch?arch=wgan&version=999").status_code == 404
    assert api.get("/watch?arch=nothing&version=1").status_code == 404
    assert "neither a job nor a version" in api.get("/watch").text


def test_without_redis_everything_but_jobs_is_there(tmp_path: Path) -> None:
    with running_api(tmp_path, DIGITS_MODEL_DIR=str(tmp_path / "models")) as api:
        assert "none is set up" in api.get("/training").text
        assert "none is set up" in api.get("/watch?job=x").text
        assert api.get("/").status_code == api.get("/compare").status_code == 200


def test_a_visitor_gets_a_page_and_a_script_a_problem(tmp_path: Path) -> None:
    """What was typed is in the address, which is opened again once there is room."""
    with running_api(tmp_path, DIGITS_MODEL_DIR=str(tmp_path), DIGITS_LIMIT_REQUESTS="1") as client:

        def refuse(**headers: str) -> httpx.Response:
            def is_refused() -> httpx.Response | None:
                answer = client.get("/?n=4&seed=3&lang=ja", headers=headers)
                return answer if answer.status_code == 429 else None

            answer = eventually(is_refused, "the limit is met")
            assert answer
            assert answer.headers["Retry-After"] == "1"
            assert "Accept" in answer.headers["Vary"].split(", ")
            return answer

        page = refuse(Accept="text/html")
        assert page.headers["Content-Type"].startswith("text/html")
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert page.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in page.headers  # which would be for a wrong path, behind a proxy's prefix
        assert '<meta http-equiv="refresh" content="1">' in page.text
        assert "1 秒後に再試行します" in page.text
        assert refuse().headers["Content-Type"] == "application/problem+json"


def test_a_visitor_is_told_what_is_wrong(api: httpx.Client) -> None:
    answer = api.get("/?n=4&n=5", headers={"Accept": "text/html"})
    assert answer.status_code == 422
    assert "The service has refused this (n: " in unescape(answer.text)
    assert "refresh" not in answer.text
    missing = api.get("/trainings", headers={"Accept": "text/html"})
    assert missing.status_code == 404
    assert "<h1>Not found</h1>" in missing.text
    assert "This address leads nowhere." in missing.text
    assert api.get("/trainings").headers["Content-Type"] == "application/problem+json"


def test_each_view_is_known_as_one() -> None:
    assert {route.name for router in (drawing.router, pages.router) for route in router.routes} == ROUTES  # type: ignore[attr-defined]
