"""The page of the API: whole without another host, also behind a prefix."""

import re
from urllib.parse import urljoin

import httpx
import pytest


def test_the_page_names_no_other_host_and_all_that_it_names_is_there(api: httpx.Client) -> None:
    page = api.get("/docs").text
    assert re.findall(r"https?://|(?:src|href)=\"//", page) == []
    script = re.findall(r'src="(static/[^"]+)"', page)[0]
    named = [*re.findall(r'(?:src|href)="([^"]+)"', page), *re.findall(r'url: "([^"]+)"', api.get(f"/{script}").text)]
    assert len(named) == 7
    for address in named:
        assert urljoin("http://host/prefix/docs", address).startswith("http://host/prefix/"), address
        assert api.get(urljoin("http://host/docs", address).removeprefix("http://host")).status_code == 200


@pytest.mark.parametrize(
    ("name", "media_type"), [("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "text/javascript")]
)
def test_its_files_have_their_media_types(api: httpx.Client, name: str, media_type: str) -> None:
    assert api.get(f"/docs/{name}").headers["content-type"].startswith(media_type)


@pytest.mark.parametrize("path", ["/docs/other.js", "/docs/..%2Fmain.py", "/redoc"])
def test_there_are_no_others(api: httpx.Client, path: str) -> None:
    assert api.get(path).status_code == 404
