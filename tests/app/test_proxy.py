"""Behind a real nginx, with a prefix."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.processes.valkey import find_free_port
from tests.processes import answers, eventually, running_api

CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location /digits/ {{ proxy_pass http://{api}{slash}; {options} }}
    }}
}}
"""

# The prefix is taken away or left there; the name of the site is told or not.
KINDS = {
    "taken": ("/", ""),
    "left": ("", ""),
    "told": ("/", "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;"),
}


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
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        assert not os.environ.get("CI"), "no nginx: .ci/run installs it"
        pytest.skip("no nginx")
    slash, options = KINDS[request.param]
    port = find_free_port()
    api = f"{prefixed.base_url.host}:{prefixed.base_url.port}"
    path = tmp_path / "nginx.conf"
    path.write_text(CONFIGURATION.format(folder=tmp_path, port=port, api=api, slash=slash, options=options))
    with subprocess.Popen([nginx, "-c", str(path), "-e", str(tmp_path / "error.log")]) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/digits", timeout=30) as client:
                eventually(lambda: answers(client), "nginx and the API behind it answer")
                client.headers["Host"] = "example.org"
                yield client
        finally:
            process.terminate()


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


def test_without_the_proxy_the_prefix_may_be_missing(prefixed: httpx.Client) -> None:
    for path in ("/livez", "/digits/livez"):
        assert prefixed.get(path).status_code == 200


def test_without_a_prefix(api: httpx.Client) -> None:
    assert api.get("/models/wgan/?x=a%20b").headers["Location"] == "/models/wgan?x=a%20b"
