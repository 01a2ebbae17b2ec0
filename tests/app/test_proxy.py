"""Behind a real nginx, with a prefix."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.nginx import KINDS, running_nginx
from tests.processes import running_api


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("prefixed")
    environment = {
        "DIGITS_ROOT_PATH": "/digits",
        "DIGITS_ALLOWED_HOSTS": "example.org",
        "DIGITS_REDIS_URL": valkey_url,
        "DIGITS_MODEL_DIR": str(folder),
    }
    with running_api(folder, **environment) as client:
        yield client


@pytest.fixture(params=KINDS)
def proxied(request: pytest.FixtureRequest, prefixed: httpx.Client, tmp_path: Path) -> Iterator[httpx.Client]:
    with (
        running_nginx(tmp_path, prefixed, KINDS[request.param]) as address,
        httpx.Client(base_url=address, timeout=30, headers={"Host": "example.org"}) as client,
    ):
        yield client


def test_every_address_keeps_the_prefix(proxied: httpx.Client) -> None:
    answer = proxied.post("/train", json={"arch": "wgan"}, headers={"Origin": "https://example.org"})
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/digits/jobs/{answer.json()['id']}"
    assert proxied.get(proxied.base_url.join(answer.headers["Location"])).json()["id"] == answer.json()["id"]
    redirect = proxied.get("/jobs/?limit=1")
    assert (redirect.status_code, redirect.headers["Location"]) == (307, "/digits/jobs?limit=1")
    assert proxied.get("/jobs/?limit=1", follow_redirects=True).status_code == 200
    assert proxied.get("/openapi.json").json()["servers"] == [{"url": "/digits"}]
    assert proxied.get("/nothing/").status_code == 404


def test_everything_works_behind_it(proxied: httpx.Client) -> None:
    assert proxied.get("/generate?arch=wgan").headers["content-type"] == "image/png"
    assert proxied.put("/generate").headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    page = proxied.get("/docs")
    assert 'src="docs/swagger-ui-bundle.js"' in page.text
    assert proxied.get("/docs/swagger-ui-bundle.js").status_code == 200


def test_the_page_is_below_the_prefix(prefixed: httpx.Client) -> None:
    redirect = prefixed.get("/digits")
    assert (redirect.status_code, redirect.headers["Location"]) == (307, "/digits/")
    page = prefixed.get("/digits/?lang=ja")
    assert page.status_code == 200
    assert "Path=/digits/" in page.headers["Set-Cookie"]
    assert prefixed.get("/digits/compare/").headers["Location"] == "/digits/compare"


def test_without_the_proxy_the_prefix_may_be_missing(prefixed: httpx.Client) -> None:
    for path in ("/livez", "/digits/livez"):
        assert prefixed.get(path).status_code == 200


def test_without_a_prefix(api: httpx.Client) -> None:
    assert api.get("/models/wgan/?x=a%20b").headers["Location"] == "/models/wgan?x=a%20b"
