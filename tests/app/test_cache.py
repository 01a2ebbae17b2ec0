"""deploy/nginx/digits.conf: a real nginx with it, in front of a real API."""

import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.keys import Scope, add_key
from app.middleware.body_limit import MAX_BODY_BYTES
from app.processes.valkey import find_free_port
from app.scopes import SCOPES
from models import classifier
from tests import nginx
from tests.app.test_keys import CALLS
from tests.app.test_protocol import talk
from tests.processes import answers, eventually, run_in_threads, running_api
from tests.versions import publish
from worker.jobs import JobStore, TrainRequest
from worker.recipes import ArchName

NAME = "digits.example.org"
SITES = ("https://a.example", "https://b.example")
BEST: Any = {"metrics": {"fid": 0.1}, "classifier_sha256": classifier.sha256()}  # better than all shipped versions
FIREFOX = "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"
CHROMIUM = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
DOCUMENTS = {"get_static", "show_docs", "get_file", "openapi", "livez"}
PUBLIC = DOCUMENTS | {name for name, scope in SCOPES.items() if scope is Scope.DRAW}
ADDRESS = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"


class Cache:
    """A client of the nginx, and what that keeps."""

    def __init__(self, folder: Path, client: httpx.Client) -> None:
        self._folder = folder
        self.client = client

    def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.request(method, path, headers={"Accept": "*/*", **sent})

    def get(self, query: str, **headers: str) -> tuple[str, httpx.Response]:
        """What the cache says of its answer to ``/generate``, and the answer."""
        answer = self.ask(f"/generate?{query}", **headers)
        return answer.headers.get("X-Cache-Status", ""), answer

    def make_old(self) -> None:
        """Let all kept answers be no longer fresh: the second word of a file says until when it is."""
        kept = eventually(self._list_kept, "every answer has its file")
        for path in kept:
            with path.open("r+b") as file:
                file.seek(8)
                file.write(struct.pack("q", 1))

    def _list_kept(self) -> list[Path]:
        """The files of all answers; none while one is being written, which then has a longer name."""
        found = [path for path in self._folder.rglob("*") if path.is_file()]
        return [] if any(path.suffix for path in found) else found


@contextmanager
def cached(folder: Path, api: httpx.Client, prefix: str = "", *, shows_jobs: bool = False) -> Iterator[Cache]:
    """An nginx with the configuration before this API, with an empty cache."""
    port, behind = find_free_port(), f"{api.base_url.host}:{api.base_url.port}"
    with (
        nginx.running(folder, nginx.configure_cache(folder / "cache", port, behind, prefix, shows_jobs=shows_jobs)),
        httpx.Client(base_url=f"http://127.0.0.1:{port}{prefix}", timeout=60, headers={"Host": NAME}) as client,
    ):
        eventually(lambda: answers(client), "nginx and the API behind it answer")
        yield Cache(folder / "cache", client)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def environment(model_dir: Path, valkey_url: str) -> dict[str, str]:
    """As the head of the configuration says, and with sites."""
    return {
        "DIGITS_ALLOWED_HOSTS": NAME,
        "DIGITS_TRUSTED_PROXIES": "127.0.0.1",
        "DIGITS_CORS_ORIGINS": ",".join(SITES),
        "DIGITS_MODEL_DIR": str(model_dir),
        "DIGITS_REDIS_URL": valkey_url,
    }


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[httpx.Client]:
    with running_api(tmp_path_factory.mktemp("api"), **environment) as client:
        yield client


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[httpx.Client]:
    """An API behind a prefix, which draws at most 1,000 images a minute for a client."""
    limited = {"DIGITS_ROOT_PATH": "/digits", "DIGITS_LIMIT_IMAGES": "1000"}
    with running_api(tmp_path_factory.mktemp("prefixed"), **limited, **environment) as client:
        yield client


@pytest.fixture
def cache(tmp_path: Path, api: httpx.Client) -> Iterator[Cache]:
    with cached(tmp_path, api) as found:
        yield found


def test_what_was_drawn_is_kept(cache: Cache, api: httpx.Client) -> None:
    query = "arch=wgan&n=4&seed=7&version=1"
    first, second = cache.get(query), cache.get(query)
    assert (first[0], second[0]) == ("MISS", "HIT")
    assert first[1].content == second[1].content == api.get(f"/generate?{query}").content
    assert second[1].headers["Cache-Control"] == "public, max-age=86400"
    assert second[1].headers["X-Version"] == "1"
    status, answer = cache.get(query, If_None_Match=second[1].headers["ETag"])
    assert (status, answer.status_code, answer.content) == ("HIT", 304, b"")
    assert cache.get("arch=wgan&n=4&seed=8&version=1")[0] == "MISS"


def test_an_old_answer_is_good_again_if_nothing_has_changed(cache: Cache) -> None:
    query = "arch=dcgan&seed=7&version=1"
    _, first = cache.get(query)
    cache.make_old()
    status, again = cache.get(query)
    assert (status, again.content) == ("REVALIDATED", first.content)
    assert cache.get(query)[0] == "HIT"


def test_a_new_version_answers_when_the_minute_is_over(cache: Cache, api: httpx.Client, model_dir: Path) -> None:
    query = "arch=vanilla&seed=7"
    _, before = cache.get(query)
    assert before.headers["Cache-Control"] == "public, max-age=60"
    new = str(publish(model_dir, "vanilla", **BEST).version)
    eventually(lambda: api.get(f"/generate?{query}").headers["X-Version"] == new, "the new version answers")
    assert cache.get(query)[1].headers["X-Version"] == before.headers["X-Version"]
    cache.make_old()
    status, after = cache.get(query)
    assert (status, after.headers["X-Version"]) == ("EXPIRED", new)
    assert after.content != before.content
    eventually(lambda: cache.get(query)[0] == "HIT", "the new answer is kept")


def test_formats_do_not_mix(cache: Cache, api: httpx.Client) -> None:
    """Whatever a client sends, it gets what the API would give it."""
    query = "arch=wgan&n=2&seed=7&version=1"
    kept = {}
    for accept in (
        *("image/png", "image/webp", "application/zip", "application/json", "*/*", "image/*", FIREFOX, CHROMIUM),
        *(
            ADDRESS,
            "image/webp, image/png;q=0.9",
            "image/webp;q=0.1, image/png",
            "application/*",
            "image/png, image/webp",
        ),
    ):
        status, answer = cache.get(query, Accept=accept)
        direct = api.get(f"/generate?{query}", headers={"Accept": accept})
        assert answer.headers["Content-Type"] == direct.headers["Content-Type"], accept
        assert answer.content == direct.content
        kept[accept] = status
    hits = {accept for accept, status in kept.items() if status == "HIT"}
    assert hits == {"*/*", "image/*", FIREFOX, CHROMIUM}  # as image/png and image/webp before
    assert cache.get(query, Accept="text/html")[1].status_code == 406


@pytest.mark.parametrize(
    ("query", "status"),
    [("arch=wgan&seed=7&version=99", 404), ("arch=wgan&seed=7&n=0", 422), ("arch=wgan&seed=x", 422)],
)
def test_errors_are_not_kept(cache: Cache, query: str, status: int) -> None:
    for _ in range(2):
        kept, answer = cache.get(query)
        assert (kept, answer.status_code) == ("MISS", status)
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_posts_are_not_kept(cache: Cache) -> None:
    seeds = {cache.ask("/generate?arch=wgan", "POST").headers["X-Seed"] for _ in range(3)}
    assert len(seeds) == 3
    for _ in range(2):
        assert "X-Cache-Status" not in cache.ask("/generate?arch=wgan&seed=7", "POST").headers


def test_without_a_seed_each_answer_is_drawn(cache: Cache) -> None:
    found = [cache.get("arch=wgan") for _ in range(3)]
    assert {status for status, _ in found} == {"BYPASS"}
    assert len({answer.headers["X-Seed"] for _, answer in found}) == 3


def test_of_many_who_ask_at_once_one_is_drawn_for(cache: Cache) -> None:
    statuses: Counter[str] = Counter()
    run_in_threads(lambda: statuses.update([cache.get("arch=wgan&n=1024&seed=7&version=1&scale=2")[0]]), 8)
    assert statuses == {"MISS": 1, "HIT": 7}


def test_sites_do_not_mix(cache: Cache) -> None:
    query = "arch=wgan&seed=7&version=1"
    for origin in (*SITES, *SITES):
        assert cache.get(query, Origin=origin)[1].headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Origin" not in cache.get(query)[1].headers


def test_what_is_for_everybody_passes(cache: Cache, api: httpx.Client) -> None:
    paths = [path for name, (method, path, _) in CALLS.items() if name in PUBLIC and method == "GET"]
    assert len(paths) > 20
    for path in (*paths, "/watch", "/watch?version=1&arch=wgan&lang=ja", "/compare?seed=3", "/docs/nothing"):
        assert cache.ask(path).status_code == api.get(path).status_code != 403, path


def test_all_else_does_not_pass(cache: Cache) -> None:
    """No other route, no change, and no other way to write them."""
    calls = [(method, path) for name, (method, path, _) in CALLS.items() if name not in PUBLIC]
    assert {"/train", "/jobs", "/training", "/metrics", "/readyz", "/models/wgan/default"} <= {
        path for _, path in calls
    }
    disguised = ("//jobs", "/j%6Fbs", "/jobs/", "/static/../jobs", "/models/%2e%2e/jobs", "/docs/..%2fmetrics", "/new")
    watching = ("job=x", "%6Aob=x", "arch=wgan&job=x", "JOB=x", "arch=&job=x&version=1", "arch=wgan;job=x")
    changes = (("PUT", "/generate"), ("GET", "/datasets"), ("POST", "/models"), ("DELETE", "/watch"), ("PUT", "/"))
    gets = [*disguised, *(f"/watch?{query}" for query in watching)]
    for method, path in (*calls, *changes, *(("GET", path) for path in gets)):
        answer = talk(cache.client, [f"{method} {path} HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode()])  # not tidied up
        assert answer.startswith(b"HTTP/1.1 403 "), (method, path)


def test_a_data_set_and_the_page_come_through(cache: Cache) -> None:
    order = {"arch": "wgan", "per_class": 1, "format": "idx"}
    answer = cache.client.post("/datasets", json=order)
    assert (answer.status_code, answer.content[:2]) == (200, b"PK")
    assert cache.ask("/", Accept="text/html").status_code == 200


def test_trainings_can_be_opened(tmp_path: Path, api: httpx.Client, store: JobStore) -> None:
    """As the last comment says. Events are not held back: compression, for example, would wait for more of them."""
    job, _ = store.create(TrainRequest(arch=ArchName("wgan")))
    claim = store.claim(job.id, "test")
    assert claim
    with cached(tmp_path, api, shows_jobs=True) as cache:
        for path in ("/training", "/jobs", f"/jobs/{job.id}", f"/watch?job={job.id}"):
            assert cache.ask(path).status_code == 200, path
        for method, path in (("POST", "/train"), ("DELETE", f"/jobs/{job.id}"), ("GET", "/metrics")):
            assert cache.ask(path, method).status_code == 403, path
        with cache.client.stream("GET", f"/jobs/{job.id}/events", timeout=30) as answer:
            lines = answer.iter_lines()
            for number in range(1, 4):
                store.report(claim, {}, [(number, "epoch", f'{{"epoch": {number}}}')])
                assert f'data: {{"epoch": {number}}}' in lines


def test_large_requests_are_refused(cache: Cache) -> None:
    """By nginx itself, so the service never sees them."""
    for answer in (
        cache.client.post("/generate?arch=wgan", content=b"x" * (MAX_BODY_BYTES + 1)),
        cache.ask("/generate?arch=wgan", X="x" * 20_000),
    ):
        assert answer.status_code in (413, 400)
        assert answer.headers["Content-Type"] == "text/html"


def test_what_is_kept_outlives_the_api(tmp_path: Path, environment: dict[str, str]) -> None:
    query = "arch=wgan&seed=7&version=1"
    with ExitStack() as stack:
        api = stack.enter_context(running_api(tmp_path, **environment))
        with cached(tmp_path, api) as cache:
            _, first = cache.get(query)
            stack.close()  # the API ends
            assert cache.get(query)[0] == "HIT"
            cache.make_old()
            status, again = cache.get(query)
            assert (status, again.content) == ("STALE", first.content)
            assert cache.get("arch=wgan&seed=8&version=1")[1].status_code == 502


def test_behind_a_prefix(tmp_path: Path, prefixed: httpx.Client) -> None:
    with cached(tmp_path, prefixed, "/digits") as cache:
        assert [cache.get("arch=wgan&seed=7&version=1")[0] for _ in range(2)] == ["MISS", "HIT"]
        assert [cache.ask(path).status_code for path in ("/", "/models", "/watch?arch=wgan&version=1")] == [200] * 3
        for method, path in (("POST", "/train"), ("GET", "/jobs"), ("GET", "/watch?job=x")):
            assert cache.ask(path, method).status_code == 403, path


def test_answers_that_need_a_key_are_not_kept(tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "reader", frozenset({Scope.DRAW}))
    with (
        running_api(tmp_path, DIGITS_KEYS_FILE=str(path), **environment) as api,
        cached(tmp_path, api) as cache,
    ):
        for _ in range(2):
            status, answer = cache.get("arch=wgan&seed=7&version=1", X_API_Key=key)
            assert (status, answer.status_code) == ("MISS", 200)
            assert answer.headers["Cache-Control"].startswith("private")
        assert cache.get("arch=wgan&seed=7&version=1")[1].status_code == 401


def test_limits_are_of_the_client_itself(tmp_path: Path, prefixed: httpx.Client) -> None:
    with cached(tmp_path, prefixed, "/digits") as cache:
        first = cache.get("arch=wgan&n=900&seed=7&version=1", X_Forwarded_For="192.0.2.1")
        again = cache.get("arch=wgan&n=900&seed=7&version=1", X_Forwarded_For="192.0.2.2")
        other = cache.get("arch=wgan&n=900&seed=8&version=1", X_Forwarded_For="192.0.2.3")
    assert [(status, answer.status_code) for status, answer in (first, again, other)] == [
        ("MISS", 200), ("HIT", 200), ("MISS", 429),
    ]  # fmt: skip
    assert "RateLimit" not in again[1].headers
