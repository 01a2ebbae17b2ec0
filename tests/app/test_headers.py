"""Headers of every answer, and pages of other sites."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.keys import Scope, add_key
from tests.app.test_protocol import talk
from tests.nginx import SECURE, running_nginx
from tests.processes import running_api

SITE = "https://school.example:8443"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that pages of one other site may use."""
    folder = tmp_path_factory.mktemp("shared")
    environment = {"DIGITS_CORS_ORIGINS": f"{SITE}/, http://other.example", "DIGITS_MODEL_DIR": str(folder)}
    with running_api(folder, **environment) as client:
        yield client


@pytest.mark.parametrize(
    "path",
    [
        "/generate?arch=wgan",
        "/models",
        "/",
        "/docs",
        "/nothing",
        "/livez",
        "/generate?n=0",
        "/jobs",
        "/static/x/page.css",
    ],
)
def test_every_answer_forbids_what_it_does_not_need(api: httpx.Client, path: str) -> None:
    headers = api.get(path).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert len(headers.get_list("content-security-policy")) == 1


@pytest.mark.parametrize("request_bytes", [b"nonsense\r\n\r\n", b"GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n"])
def test_refusals_forbid_it_too(api: httpx.Client, request_bytes: bytes) -> None:
    head = talk(api, [request_bytes]).lower()
    assert b"content-security-policy: default-src 'none'" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"x-request-id: " in head


def test_a_request_has_an_id(api: httpx.Client) -> None:
    ids = {api.get("/livez").headers["X-Request-ID"] for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{18}", one) for one in ids)
    assert api.get("/nothing", headers={"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    for bad in ("a b", "x" * 129, "<script>", ""):
        assert api.get("/livez", headers={"X-Request-ID": bad}).headers["X-Request-ID"] != bad


def test_pages_of_other_sites_are_strangers(api: httpx.Client) -> None:
    answer = api.get("/models", headers={"Origin": SITE})
    assert "Access-Control-Allow-Origin" not in answer.headers
    asked = api.options("/train", headers={"Origin": SITE, "Access-Control-Request-Method": "POST"})
    assert "Access-Control-Allow-Origin" not in asked.headers


def test_pages_of_a_named_site_may_use_the_service(shared: httpx.Client) -> None:
    asked = shared.options(
        "/train",
        headers={
            "Origin": SITE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type, idempotency-key",
        },
    )
    assert (asked.status_code, asked.headers["Access-Control-Allow-Origin"]) == (200, SITE)
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    drawn = shared.post("/generate?arch=wgan", headers={"Origin": SITE})
    assert (drawn.status_code, drawn.headers["Access-Control-Allow-Origin"]) == (200, SITE)
    assert "Access-Control-Allow-Credentials" not in drawn.headers  # keys come as headers, never as cookies
    exposed = {name.strip() for name in drawn.headers["Access-Control-Expose-Headers"].split(",")}
    assert {"X-Arch", "X-Version", "X-Seed", "X-Seeds", "ETag", "Location", "Retry-After", "RateLimit"} <= exposed
    assert drawn.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    wrong = shared.post("/generate?arch=bogus", headers={"Origin": SITE})
    assert (wrong.status_code, wrong.headers["Access-Control-Allow-Origin"]) == (422, SITE)  # or no page could read it


def test_pages_of_others_still_may_not(shared: httpx.Client) -> None:
    refused = shared.post("/generate?arch=wgan", headers={"Origin": "https://evil.example"})
    assert refused.status_code == 403
    assert "Access-Control-Allow-Origin" not in refused.headers


@pytest.mark.parametrize(("trusted", "host"), [("127.0.0.0/8", "127.0.0.1"), ("127.0.0.0/8", "::"), ("", "127.0.0.1")])
def test_only_a_trusted_proxy_says_who_asks_and_how(tmp_path: Path, trusted: str, host: str) -> None:
    """A socket of IPv6 that takes both has longer names for addresses of IPv4."""
    file = tmp_path / "keys.json"
    key = add_key(file, "one", frozenset([Scope.DRAW]))
    environment = {
        "DIGITS_ROOT_PATH": "/digits",
        "DIGITS_KEYS_FILE": str(file),
        "DIGITS_TRUSTED_PROXIES": trusted,
        "DIGITS_HOST": host,
        "DIGITS_MODEL_DIR": str(tmp_path),
    }
    with running_api(tmp_path, **environment) as api, running_nginx(tmp_path, api, SECURE) as address:
        login = httpx.post(f"{address}/login", data={"key": key, "next": "/compare"})
        assert (login.status_code, login.headers["Location"]) == (303, "/digits/compare")
        assert ("Secure" in login.headers["Set-Cookie"]) is bool(trusted)
        assert "Path=/digits/" in login.headers["Set-Cookie"]
        sent_away = httpx.get(f"{address}/compare", headers={"Accept": "text/html"})
        assert sent_away.headers["Location"] == "/digits/login?next=%2Fcompare"
