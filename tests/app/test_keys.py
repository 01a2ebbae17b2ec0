"""Who may do what: every route, without a key, with a wrong one, and with one of each scope."""

import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from app.keys import KeyRing, KeysError, Scope, add_key, read_keys, revoke_key
from app.main import create_app
from app.middleware.keys import ask_for_key
from app.scopes import SCOPES
from app.settings import ApiSettings
from tests.processes import eventually, run_in_threads, running, running_api
from worker.jobs import JobStore, TrainRequest
from worker.recipes import ArchName

ID = "00000000-0000-4000-8000-000000000000"
NOBODY, WRONG = "no key", "a wrong key"
CALLERS = (NOBODY, WRONG, *Scope)

# Each route of the service → a call of it, and the answers that are not about keys. A new route needs a row.
CALLS: dict[str, tuple[str, str, set[int]]] = {
    "post_generate": ("POST", "/generate?arch=wgan&n=1", {200}),
    "get_generate": ("GET", "/generate?arch=wgan&n=1", {200}),
    "make_dataset": ("POST", "/datasets", {422}),
    "list_models": ("GET", "/models", {200}),
    "list_versions": ("GET", "/models/wgan", {200}),
    "get_version": ("GET", "/models/wgan/1", {200}),
    "get_version_samples": ("GET", "/models/wgan/1/samples.png", {200}),
    "get_evolution": ("GET", "/models/wgan/999/evolution.webp", {404}),
    "get_version_curves": ("GET", "/models/wgan/999/curves.svg", {404}),
    "get_history": ("GET", "/models/wgan/1/history", {200}),
    "get_morph": ("GET", "/morph.webp?arch=wgan", {422}),
    "get_morph_frames": ("GET", "/morph.png?arch=wgan", {422}),
    "get_neighbours": ("GET", "/neighbours.png?arch=wgan", {422}),
    "compare": ("GET", "/compare.png?seeds=x", {422}),
    "get_real": ("GET", "/real.png?indices=x", {422}),
    "train": ("POST", "/train", {422}),
    "list_jobs": ("GET", "/jobs", {200}),
    "get_job": ("GET", f"/jobs/{ID}", {404}),
    "cancel_job": ("DELETE", f"/jobs/{ID}", {404}),
    "follow_job": ("GET", f"/jobs/{ID}/events", {404}),
    "get_job_samples": ("GET", f"/jobs/{ID}/samples.png", {404}),
    "get_job_curves": ("GET", f"/jobs/{ID}/curves.svg", {404}),
    "get_default": ("GET", "/models/wgan/default", {200}),
    "put_default": ("PUT", "/models/wgan/default", {422}),
    "delete_version": ("DELETE", "/models/wgan/999", {404}),
    "show_version": ("PUT", "/models/wgan/999", {404}),
    "show_draw": ("GET", "/", {200}),
    "show_compare": ("GET", "/compare", {200}),
    "show_morph": ("GET", "/morph", {200}),
    "show_training": ("GET", "/training", {200}),
    "show_watch": ("GET", "/watch?arch=wgan&version=1", {200}),
    "show_login": ("GET", "/login", {200}),
    "login": ("POST", "/login", {401}),
    "logout": ("POST", "/logout", {303}),
    "get_static": ("GET", "/static/x/page.css", {200}),
    "show_docs": ("GET", "/docs", {200}),
    "get_file": ("GET", "/docs/swagger-ui.css", {200}),
    "openapi": ("GET", "/openapi.json", {200}),
    "livez": ("GET", "/livez", {200}),
    "readyz": ("GET", "/readyz", {200}),
    "get_metrics": ("GET", "/metrics", {200}),
}
ELSEWHERE = {"X-Forwarded-For": "192.0.2.1"}  # a proxy of this machine has passed the request on


@dataclass
class Guarded:
    """A service that asks for keys, one of each scope."""

    client: httpx.Client
    file: Path
    keys: dict[str, str]

    def ask(self, method: str, path: str, key: str = "") -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}", **ELSEWHERE} if key else ELSEWHERE
        has_body = path in ("/train", "/datasets", "/models/wgan/default") and method != "GET"
        return self.client.request(method, path, headers=headers, json={} if has_body else None)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "keys.json"
    keys = {scope.value: add_key(file, f"{scope}s", frozenset([scope])) for scope in Scope}
    environment = {
        "DIGITS_KEYS_FILE": str(file),
        "DIGITS_HOST": "0.0.0.0",  # which keys allow
        "DIGITS_REDIS_URL": valkey_url,
        "DIGITS_MODEL_DIR": str(folder / "models"),
    }
    with running_api(folder, **environment) as client:
        yield Guarded(client, file, {NOBODY: "", WRONG: keys["draw"][:-1] + "_", **keys})


def test_every_route_has_a_row_here_and_in_the_table(model_dir: Path) -> None:
    names = {getattr(route, "name", "") for route in create_app(ApiSettings(model_dir=model_dir, device="cpu")).routes}
    assert names == set(SCOPES) == set(CALLS)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("route", CALLS)
def test_the_matrix(guarded: Guarded, route: str, caller: str) -> None:
    method, path, otherwise = CALLS[route]
    needed = SCOPES[route]
    answer = guarded.ask(method, path, guarded.keys[caller])
    if needed is None or caller in (needed, Scope.ADMIN):
        assert answer.status_code in otherwise
        return
    assert answer.status_code == (401 if caller in (NOBODY, WRONG) else 403)
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.headers["WWW-Authenticate"]
    assert said.startswith('Bearer realm="digits"')
    if caller not in (NOBODY, WRONG):
        assert answer.json()["errors"] == [
            {"field": "scope", "detail": answer.json()["detail"], "bound": {"needed": needed}}
        ]
        assert f'scope="{needed}"' in said
        assert f"lacks the scope {needed}" in answer.json()["detail"]
    else:
        assert ("invalid_token" in said) is (caller == WRONG)


def test_a_process_of_this_machine_needs_no_key_for_the_metrics(guarded: Guarded) -> None:
    assert guarded.client.get("/metrics").status_code == 200
    assert guarded.client.get("/metrics", headers=ELSEWHERE).status_code == 401


def test_head_needs_what_get_needs_and_a_path_that_is_none_needs_nothing(guarded: Guarded) -> None:
    assert guarded.client.head("/generate?arch=wgan").status_code == 401
    assert guarded.ask("HEAD", "/generate?arch=wgan", guarded.keys["draw"]).status_code == 200
    assert guarded.client.get("/nothing").status_code == 404
    assert guarded.client.put("/generate").status_code == 405
    assert guarded.client.options("/generate").status_code == 204


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "bearer  {key}"},
        {"X-API-Key": "{key}"},
        {"Cookie": "lang=en; digits_key={key}"},
        {"Cookie": 'pref={{"a":1}}; a=b c; flag; m@il=1;; path=/x; digits_key={key}'},  # of other applications
        {"Authorization": "Basic dTpw", "X-API-Key": "{key}"},  # a proxy's own
    ],
)
def test_a_key_may_come_in_three_ways(guarded: Guarded, headers: dict[str, str]) -> None:
    sent = {name: value.format(key=guarded.keys["draw"]) for name, value in headers.items()}
    answer = guarded.client.get("/generate?arch=wgan&seed=1&version=1", headers=sent)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "private, max-age=86400"  # no cache may give it to others


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer digits_"},
        {"Authorization": "Bearer wrong", "X-API-Key": "{key}"},
        {"X-API-Key": "{key}x"},
        {"X-API-Key": "{KEY}"},
        {"Cookie": 'digits_key="{key}'},
        {"Cookie": "digits_key"},
        {"Cookie": "digits_key=; ; =;{key}"},
    ],
)
def test_what_is_no_key_is_refused(guarded: Guarded, headers: dict[str, str]) -> None:
    key = guarded.keys["draw"]
    sent = {name: value.format(key=key, KEY=key.upper()) for name, value in headers.items()}
    assert guarded.client.get("/generate?arch=wgan", headers=sent).status_code == 401


def test_two_keys_are_none(guarded: Guarded) -> None:
    headers = [("Authorization", f"Bearer {guarded.keys[name]}") for name in ("draw", "admin")]
    answer = guarded.client.get("/models", headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "Authorization")


def test_no_cache_keeps_what_needed_a_key(guarded: Guarded) -> None:
    for path in ("/models", "/jobs"):
        assert guarded.ask("GET", path, guarded.keys["admin"]).headers["Cache-Control"] == "private, no-cache"


def test_a_proxy_on_this_machine_does_not_open_the_metrics(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add_key(file, "one", frozenset([Scope.ADMIN]))
    environment = {"DIGITS_KEYS_FILE": str(file), "DIGITS_MODEL_DIR": str(tmp_path)}
    with running_api(tmp_path, **environment) as api:
        assert api.get("/metrics").status_code == 200
        assert api.get("/metrics", headers={"Via": "1.1 proxy"}).status_code == 401
    with running_api(tmp_path, DIGITS_ROOT_PATH="/digits", **environment) as api:
        assert api.get("/metrics").status_code == 401


def test_the_file_keeps_its_permissions_and_its_place(tmp_path: Path) -> None:
    file, link = tmp_path / "keys.json", tmp_path / "link.json"
    tmp_path.chmod(0o1777)
    add_key(file, "one", frozenset([Scope.DRAW]))
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    link.symlink_to(file)
    add_key(link, "two", frozenset([Scope.DRAW]))
    assert (file.stat().st_mode & 0o777, link.is_symlink(), len(read_keys(file))) == (0o640, True, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_file_keeps_its_owner(tmp_path: Path) -> None:
    """Otherwise a service of another user could not read it any more, and a revoked key would stay good."""
    file = tmp_path / "keys.json"
    add_key(file, "one", frozenset([Scope.DRAW]))
    os.chown(file, 12345, 54321)
    revoke_key(file, "one")
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 54321)


def test_a_pipe_is_no_file_of_keys(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys.json")
    with pytest.raises(KeysError, match="is no file"):
        KeyRing(tmp_path / "keys.json")


def test_keys_come_and_go_while_the_service_runs(guarded: Guarded) -> None:
    key = add_key(guarded.file, "pupil", frozenset([Scope.DRAW]))
    eventually(lambda: guarded.ask("GET", "/models", key).status_code == 200, "the key is good")
    before = guarded.file.read_bytes()
    guarded.file.write_bytes(b"{")
    assert guarded.ask("GET", "/models", key).status_code == 200
    guarded.file.write_bytes(before)
    revoke_key(guarded.file, "pupil")
    eventually(lambda: guarded.ask("GET", "/models", key).status_code == 401, "the key is refused")
    assert guarded.ask("GET", "/models", guarded.keys["draw"]).status_code == 200


def test_the_file_has_no_key(guarded: Guarded) -> None:
    text = guarded.file.read_text()
    for key in guarded.keys.values():
        assert not key or key not in text
        assert not key or key[16:] not in text


@pytest.mark.parametrize("sent", ["/training", "/train/training"])
def test_the_prefix_is_cut_off_as_a_whole(sent: str) -> None:
    scope = {"root_path": "/train", "raw_path": sent.encode(), "query_string": b""}
    assert ask_for_key(scope, "").headers["Location"] == "/train/login?next=%2Ftraining"


def test_a_browser_logs_in_and_out(guarded: Guarded) -> None:
    html = {"Accept": "text/html,*/*;q=0.8"}
    sent_away = guarded.client.get("/compare?seed=3", headers=html)
    assert (sent_away.status_code, sent_away.headers["Location"]) == (303, "/login?next=%2Fcompare%3Fseed%3D3")
    sent_again = guarded.client.get("/models/wgan/1%2541?x=%22", headers=html)
    assert sent_again.headers["Location"] == "/login?next=%2Fmodels%2Fwgan%2F1%252541%3Fx%3D%2522"
    from_elsewhere = {"Sec-Fetch-Site": "cross-site"}
    linked = guarded.client.get(sent_again.headers["Location"], headers=from_elsewhere)
    assert 'content="0; url=/models/wgan/1%2541?x=%22"' in linked.text
    assert linked.headers["Cache-Control"] == "no-store"
    for foreign in ("//evil.example/", "/%5Cevil.example/", "https://evil.example/", ""):
        form = guarded.client.get(f"/login?next={foreign}", headers=from_elsewhere)
        assert "http-equiv" not in form.text
        assert "<form" in form.text
    form = guarded.client.get(sent_away.headers["Location"])
    assert 'name="next" value="/compare?seed=3"' in form.text
    wrong = guarded.client.post("/login", data={"key": guarded.keys[WRONG], "next": "/compare"})
    assert wrong.status_code == 401
    assert "Set-Cookie" not in wrong.headers
    right = guarded.client.post("/login", data={"key": f" {guarded.keys['draw']} ", "next": "/compare?seed=3"})
    assert (right.status_code, right.headers["Location"]) == (303, "/compare?seed=3")
    cookie = right.headers["Set-Cookie"]
    assert re.search("HttpOnly.*Path=/;.*SameSite=strict", cookie)
    assert "Secure" not in cookie  # over plain HTTP, it would not come back
    with httpx.Client(base_url=guarded.client.base_url, cookies=right.cookies, headers=html) as browser:
        page = browser.get("/compare?seed=3")
        assert "Logged in as draws" in page.text
        assert guarded.keys["draw"] not in page.text
        lacking = browser.get("/training")
        assert lacking.headers["Location"] == "/login?next=%2Ftraining&lacking=train"
        assert "may not train" in browser.get(lacking.headers["Location"]).text
        out = browser.post("/logout")
        assert out.headers["Location"] == "/login"
        assert "Max-Age=0" in out.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "target", ["", "//evil.example", "/\\evil.example", "https://evil.example", "evil", "/a\r\nX: y", "javascript:1"]
)
def test_a_login_goes_to_no_other_site(guarded: Guarded, target: str) -> None:
    body = f"key={guarded.keys['draw']}&next={quote(target)}"
    answer = guarded.client.post("/login", content=body)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


def test_nobody_logs_in_from_another_site(guarded: Guarded) -> None:
    answer = guarded.client.post("/login", data={"key": "x"}, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403


def test_the_command_line_sends_its_key(guarded: Guarded, tmp_path: Path, store: JobStore) -> None:
    job, _ = store.create(TrainRequest.model_validate({"arch": "wgan"}))
    url = str(guarded.client.base_url)
    odd = ("ключ", 2, "DIGITS_KEY: should be a key")
    for key, status, said in (("", 1, "this needs a key"), (guarded.keys["train"], 0, job.id), odd):
        with running(tmp_path, "jobs", "--url", url, DIGITS_KEY=key) as process:
            assert process.popen.wait(60) == status, process.output
            assert said in process.output
            assert not key or key not in process.output


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    environment = {"DIGITS_KEYS_FILE": str(tmp_path / "keys.json")}

    def call(*arguments: str, status: int = 0, **other: str) -> str:
        with running(tmp_path, "keys", *arguments, **{**environment, **other}) as process:
            assert process.popen.wait(60) == status, process.output
            return process.output

    told, key = call("add", "class-3b", "--scope", "draw", "--scope", "train").splitlines()
    assert re.search("digits.audit: key-added user=.* name=class-3b scopes=draw,train", told)
    assert KeyRing(tmp_path / "keys.json").find(key)
    assert "there is a key class-3b already" in call("add", "class-3b", status=1)
    listed = call("list")
    assert re.search(rf"class-3b +draw, train +{key[:15]}_…", listed)
    assert key not in listed
    assert "there is no key x; there are: class-3b" in call("revoke", "x", status=1)
    assert re.search("digits.audit: key-removed user=.* name=class-3b\n", call("revoke", "class-3b"))
    assert KeyRing(tmp_path / "keys.json").find(key) is None
    assert "NAME: 1 to 64 letters" in call("add", "a b", status=2)
    assert "DIGITS_KEYS_FILE" in call("add", "a", status=2, DIGITS_KEYS_FILE="")
    assert "cannot open" in call("add", "a", status=1, DIGITS_KEYS_FILE=str(tmp_path / "none" / "keys.json"))


def test_keys_that_are_made_at_once_are_all_kept(tmp_path: Path) -> None:
    file, lock, numbers = tmp_path / "keys.json", threading.Lock(), iter(range(20))

    def add() -> None:
        with lock:
            number = next(numbers)
        add_key(file, f"n{number}", frozenset([Scope.DRAW]))

    run_in_threads(add, 20)
    assert len(read_keys(file)) == 20


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "make one with `digits keys add"),
        (b"", "the file"),
        (b"{}", "keys: Field required"),
        (b'{"keys": [{"id": "x"}]}', "keys.0.id"),
        (b'{"keys": [], "more": 1}', "more"),
        (json.dumps({"keys": [], "x": "y" * 5 * 2**20}).encode(), "more than"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeysError, match=re.escape(said)) as caught:
        KeyRing(file)
    assert str(file) in str(caught.value)


def test_other_machines_are_let_in_only_if_a_setting_says_so(tmp_path: Path) -> None:
    for command in ("serve", "up"):
        environment = {"DIGITS_STATE_DIR": str(tmp_path), "DIGITS_MODEL_DIR": str(tmp_path), "DIGITS_HOST": "0.0.0.0"}
        with running(tmp_path, command, **environment) as process:
            assert process.popen.wait(60) == 1
            assert "DIGITS_KEYS_FILE" in process.output
            assert "DIGITS_OPEN=true" in process.output


def test_a_key_that_may_only_draw_watches_versions_and_no_jobs(guarded: Guarded, store: JobStore) -> None:
    job, _ = store.create(TrainRequest(arch=ArchName("dcgan")))
    assert guarded.ask("GET", "/watch?arch=wgan&version=3", guarded.keys["draw"]).status_code == 200
    for scope, status in {"draw": 303, "admin": 200}.items():
        answer = guarded.ask("GET", f"/watch?job={job.id}", guarded.keys[scope])
        assert answer.status_code == status
        assert ("at place" in answer.text.partition("<main")[2]) is (status == 200)


def test_the_code_of_a_view_sends_a_key_and_names_none(guarded: Guarded, api: httpx.Client) -> None:
    page = guarded.ask("GET", "/", guarded.keys["draw"]).text
    assert page.count("DIGITS_KEY") >= 2
    assert guarded.keys["draw"] not in page
    assert "DIGITS_KEY" not in api.get("/").text
