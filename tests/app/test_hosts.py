"""Names of the service, and pages of other sites."""

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.app.test_protocol import read_problem, read_statuses, talk
from tests.processes import running_api
from worker.jobs import JobStore

ID = "00000000-0000-4000-8000-000000000000"
CALLS = [("POST", "/train"), ("DELETE", f"/jobs/{ID}"), ("GET", "/jobs"), ("GET", "/generate?arch=wgan"), ("GET", "/x")]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[httpx.Client]:
    """Listens on all addresses, as in a container, and has a name of its own."""
    folder = tmp_path_factory.mktemp("named")
    environment = {
        "DIGITS_HOST": "0.0.0.0",
        "DIGITS_OPEN": "true",
        "DIGITS_ALLOWED_HOSTS": "Digits.example.org, 192.0.2.1",
        "DIGITS_REDIS_URL": valkey_url,
        "DIGITS_MODEL_DIR": str(folder),
    }
    with running_api(folder, **environment) as client:
        yield client


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:8000",
        "192.0.2.2",
        "evil.example:x",
        "evil@localhost",
        "localhost/evil",
        "::1",
    ],
)
@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_foreign_name_is_refused(named: httpx.Client, method: str, path: str, host: str) -> None:
    headers = {"Host": host, "Origin": f"http://{host}"}
    answer = named.request(method, path, headers=headers, json={"arch": "wgan"} if method == "POST" else None)
    assert answer.status_code == (421 if re.fullmatch(r"[\w.]+(:\d+)?", host) else 400)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == "Host"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.8.8.8:80", "[::1]:8000", "localhost.", "DIGITS.example.org"]
)
def test_names_of_the_service_are_answered(named: httpx.Client, host: str) -> None:
    for path in ("/livez", "/generate?arch=wgan", "/jobs"):
        assert named.get(path, headers={"Host": host}).status_code == 200


def test_the_address_of_the_connection_is_a_name(named: httpx.Client) -> None:
    """Whatever address of this machine a client has used: a probe, a balancer."""
    url = named.base_url.copy_with(host="127.0.0.2")
    answer = httpx.get(url.join("/livez"))
    assert answer.status_code == 200


@pytest.mark.parametrize("lines", [b"", b"Host: localhost\r\nHost: evil.example\r\n", b"Host:\r\n", b"Host: [\r\n"])
def test_a_request_has_one_host(named: httpx.Client, lines: bytes) -> None:
    request = b"GET /jobs HTTP/1.1\r\nConnection: close\r\n" + lines + b"\r\n"
    answer = talk(named, [request])
    assert read_statuses(answer) == [400]
    assert "Host" in str(read_problem(answer)["detail"])


def test_http_1_0_has_no_host(named: httpx.Client) -> None:
    assert read_statuses(talk(named, [b"GET /livez HTTP/1.0\r\n\r\n"])) == [200]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://evil.example:8000", ""]
)
def test_a_foreign_page_changes_nothing(named: httpx.Client, store: JobStore, origin: str) -> None:
    for method, path in (("POST", "/train"), ("DELETE", f"/jobs/{ID}"), ("POST", "/generate?arch=wgan")):
        answer = named.request(method, path, headers={"Origin": origin}, json={"arch": "wgan"})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (403, "Origin")
    assert store.list_newest(1) == []


def test_a_page_on_another_port_of_this_machine_is_foreign(api: httpx.Client) -> None:
    for origin in ("http://127.0.0.1:9", "http://localhost:9"):
        assert api.post("/generate?arch=wgan", headers={"Origin": origin}).status_code == 403


def test_a_page_of_the_service_may_change(named: httpx.Client) -> None:
    own = str(named.base_url).rstrip("/")
    for origin in (own, "https://digits.example.org", "https://digits.example.org:8443"):
        assert named.post("/generate?arch=wgan", headers={"Origin": origin}).status_code == 200
    assert named.get("/livez", headers={"Origin": "http://evil.example"}).status_code == 200  # a browser hides it


def test_by_default_no_other_name_is_known(api: httpx.Client) -> None:
    assert api.get("/livez", headers={"Host": "digits.example.org"}).status_code == 421
