"""Pin, remove and hide versions over HTTP and on the command line, while two APIs share one model directory."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app import upkeep
from app.generators import Generators
from app.upkeep import NeededError
from models import choices, classifier, versions
from models.choices import PIN
from models.manifest import GENERATOR
from tests.app.test_cli import digits
from tests.processes import eventually, run_in_threads, running_api
from tests.versions import SHIPPED, publish
from worker.connections import connect

BEST: Any = {"metrics": {"fid": 0.1}, "classifier_sha256": classifier.sha256()}  # better than all shipped versions


class Place:
    """A model directory, and two APIs on it, as on two hosts."""

    def __init__(self, folder: Path, api: httpx.Client, other: httpx.Client) -> None:
        self.folder, self.model_dir = folder, folder / "models"
        self.api, self.other = api, other

    def publish(self, arch: str = "dcgan", **facts: Any) -> int:
        version = publish(self.model_dir, arch, **facts).version
        for api in (self.api, self.other):
            eventually(lambda api=api: api.get(f"/models/{arch}/{version}").is_success, "it is found")  # type: ignore[misc]
        return version

    def pin(self, arch: str, version: object) -> httpx.Response:
        return self.api.put(f"/models/{arch}/default", json={"version": version})

    def digits(self, *arguments: str) -> tuple[int, str]:
        result = digits(self.folder, *arguments)
        assert "Traceback" not in result.stderr
        lines = (result.stdout + result.stderr).splitlines(keepends=True)
        return result.returncode, "".join(line for line in lines if not find_audits(line))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("upkeep")
    with (
        running_api(folder, DIGITS_MODEL_DIR=str(folder / "models")) as api,
        running_api(folder, DIGITS_MODEL_DIR=str(folder / "models")) as other,
    ):
        yield Place(folder, api, other)


@pytest.fixture(autouse=True)
def tidy(place: Place) -> Iterator[None]:
    """Each test finds the shipped versions, and nothing is pinned."""
    yield
    for arch, shipped in SHIPPED.items():
        choices.pin(place.model_dir, arch, None)
        for number in shipped:
            choices.show(place.model_dir, arch, number)
    for arch, number in versions.find_folders(place.model_dir):
        if number not in SHIPPED[arch]:
            assert place.api.delete(f"/models/{arch}/{number}").status_code == 204


def find_default(api: httpx.Client, arch: str) -> int:
    answer = api.get("/generate", params={"arch": arch, "n": 1})
    assert answer.status_code == 200
    return int(answer.headers["X-Version"])


def list_numbers(api: httpx.Client, arch: str) -> list[int]:
    return [item["version"] for item in api.get(f"/models/{arch}").json()]


def test_a_pinned_version_answers_at_once_here_and_soon_elsewhere(place: Place) -> None:
    best = place.api.get("/models/wgan/default").json()
    assert best == {"version": 3, "pinned": None, "problem": None}
    answer = place.pin("wgan", 1)
    assert (answer.status_code, answer.json()) == (200, {"version": 1, "pinned": 1, "problem": None})
    assert find_default(place.api, "wgan") == 1
    eventually(lambda: find_default(place.other, "wgan") == 1, "the other one follows", seconds=5)
    marked = [item["version"] for item in place.other.get("/models/wgan").json() if item["default"] and item["pinned"]]
    assert marked == [1]
    assert place.other.get("/models/wgan/latest").json()["version"] == 1  # none was trained here
    assert place.other.get("/readyz").json()["versions"]["wgan"]["pinned"] == 1
    for page in ("/", "/compare", "/morph?arch=wgan"):
        assert place.api.get(page).status_code == 200
    assert place.pin("wgan", None).json() == best
    assert find_default(place.api, "wgan") == 3


def test_a_better_version_does_not_displace_a_pinned_one(place: Place) -> None:
    place.pin("dcgan", 1)
    better = place.publish(**BEST)
    assert find_default(place.api, "dcgan") == 1
    place.pin("dcgan", None)
    assert find_default(place.api, "dcgan") == better


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"version": 99}, "no version 99"),
        ({"version": 0}, "greater than or equal to 1"),
        ({"version": "latest"}, "number"),
        ({}, "required"),
        ({"version": 1, "arch": "wgan"}, "unknown parameter"),
    ],
)
def test_what_cannot_be_pinned_is_named(place: Place, body: dict[str, object], said: str) -> None:
    answer = place.api.put("/models/wgan/default", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert said in answer.json()["errors"][0]["detail"]
    assert place.api.get("/models/wgan/default").json()["pinned"] is None


def test_an_unknown_architecture_is_named(place: Place) -> None:
    answers = (
        place.pin("biggan", 1),
        place.api.get("/models/biggan/default"),
        place.api.delete("/models/biggan/1"),
        place.api.put("/models/biggan/1"),
    )
    for answer in answers:
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (404, "arch")


def test_a_pinned_version_that_is_missing_or_damaged_is_told_and_the_best_one_answers(place: Place) -> None:
    version = place.publish()
    place.pin("dcgan", version)
    (place.model_dir / "dcgan" / str(version) / GENERATOR).write_bytes(b"")
    with running_api(place.folder, DIGITS_MODEL_DIR=str(place.model_dir)) as started_later:
        assert find_default(started_later, "dcgan") == 1
        state = started_later.get("/readyz")
        said = state.json()["versions"]["dcgan"]
        assert (state.status_code, said["default"], said["pinned"]) == (200, 1, version)
        assert "truncated" in said["problem"]
    choices.pin(place.model_dir, "dcgan", 77)
    eventually(lambda: "no such version" in str(place.api.get("/models/dcgan/default").json()["problem"]), "it is told")
    assert find_default(place.api, "dcgan") == 1
    (place.model_dir / "dcgan" / PIN).write_text("nonsense")
    eventually(lambda: PIN in str(place.api.get("/readyz").json()["versions"]["dcgan"]["problem"]), "it is told")
    assert find_default(place.api, "dcgan") == 1


def test_a_removed_version_is_gone_here_at_once_and_soon_elsewhere(place: Place) -> None:
    version = place.publish(**BEST)
    assert find_default(place.other, "dcgan") == version
    answer = place.api.delete(f"/models/dcgan/{version}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert version not in list_numbers(place.api, "dcgan")
    eventually(lambda: find_default(place.other, "dcgan") == 1, "the other one follows", seconds=5)
    for api in (place.api, place.other):
        assert api.get("/generate", params={"arch": "dcgan", "version": version}).status_code == 404
    again = place.api.delete(f"/models/dcgan/{version}")
    assert (again.status_code, again.json()["errors"][0]["field"]) == (404, "version")
    assert place.api.put(f"/models/dcgan/{version}").status_code == 404  # it does not come back
    assert place.publish() == version + 1


def test_what_is_drawn_from_a_version_is_finished(place: Place) -> None:
    """Large pictures without a pause: none fails, and each is whole."""
    version = place.publish(**BEST)
    query: dict[str, Any] = {"arch": "dcgan", "n": 1024, "seed": 1}
    expected = place.api.get("/generate", params={**query, "version": version}).content
    answers: list[httpx.Response] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(place.other.get("/generate", params=query))

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: len(answers) > 2, "it draws")
    assert place.api.delete(f"/models/dcgan/{version}").status_code == 204
    eventually(lambda: answers[-1].headers.get("X-Version") == "1", "the best one of the others draws")
    done.set()
    asking.join()
    assert {answer.status_code for answer in answers} == {200}
    old = [answer for answer in answers if answer.headers["X-Version"] == str(version)]
    assert old
    assert all(answer.content == expected for answer in old)


def test_a_pinned_version_stays_until_another_one_is_pinned(place: Place) -> None:
    version = place.publish()
    for pinned in (version, 2):
        place.pin("dcgan", pinned)
        answer = place.api.delete(f"/models/dcgan/{pinned}")
        assert (answer.status_code, "pin another one first" in answer.json()["detail"]) == (409, True)
    assert place.api.delete(f"/models/dcgan/{version}").status_code == 204


def test_a_shipped_version_is_hidden_and_comes_back_but_the_last_one_stays(place: Place) -> None:
    before = place.api.get("/models/wgan").json()
    for number in (3, 2):
        assert place.api.delete(f"/models/wgan/{number}").status_code == 204
        assert place.api.get(f"/models/wgan/{number}").status_code == 404
        assert place.api.delete(f"/models/wgan/{number}").status_code == 404
    assert place.api.get("/compare").status_code == 200
    last = place.api.delete("/models/wgan/1")
    assert (last.status_code, "last one" in last.json()["detail"]) == (409, True)
    own = place.publish("wgan")
    assert place.api.delete("/models/wgan/1").status_code == 204  # now another one can draw
    assert place.api.delete(f"/models/wgan/{own}").status_code == 409
    assert find_default(place.api, "wgan") == own
    for number in (1, 2, 3, 3):
        answer = place.api.put(f"/models/wgan/{number}")
        assert (answer.status_code, answer.json()["version"]) == (200, number)
    assert place.api.delete(f"/models/wgan/{own}").status_code == 204
    assert [item["version"] for item in place.api.get("/models/wgan").json()] == [item["version"] for item in before]


@pytest.mark.parametrize("version", ["0", "-1", "latest", "1.5", "9" * 5000])
@pytest.mark.parametrize("method", ["DELETE", "PUT"])
def test_only_numbers_are_removed_or_shown(place: Place, version: str, method: str) -> None:
    answer = place.api.request(method, f"/models/wgan/{version}")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    ("path", "allowed"), [("default", "GET, HEAD, OPTIONS, PUT"), ("1", "DELETE, GET, HEAD, OPTIONS, PUT")]
)
def test_a_path_says_what_it_allows(place: Place, path: str, allowed: str) -> None:
    assert place.api.options(f"/models/wgan/{path}").headers["Allow"] == allowed


def test_two_who_remove_the_last_two_do_not_both_succeed(tmp_path: Path) -> None:
    """This fails without the lock on the folder of the architecture."""
    for _ in range(10):
        numbers = [publish(tmp_path, "vanilla").version for _ in range(2)]
        opened = [Generators(tmp_path, torch.device("cpu")) for _ in numbers]
        for generators in opened:
            generators.refresh()
        for number in SHIPPED["vanilla"]:
            upkeep.hide(opened[0], "vanilla", number)
        ready, todo = threading.Barrier(2), list(zip(opened, numbers, strict=True))
        refused: list[NeededError] = []

        def remove(
            ready: threading.Barrier = ready, todo: list[Any] = todo, refused: list[NeededError] = refused
        ) -> None:
            generators, number = todo.pop()
            ready.wait()
            try:
                upkeep.remove(generators, "vanilla", number)
            except NeededError as error:
                refused.append(error)

        run_in_threads(remove, 2)
        assert len(refused) == 1
        (left,) = versions.list_numbers(tmp_path / "vanilla")
        for number in SHIPPED["vanilla"]:
            choices.show(tmp_path, "vanilla", number)
        upkeep.remove(opened[0], "vanilla", left)


def test_a_model_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with running_api(tmp_path, DIGITS_MODEL_DIR=str(tmp_path / "models")) as api:
        answers = (api.put("/models/wgan/default", json={"version": 1}), api.delete("/models/wgan/1"))
        for answer in answers:
            assert (answer.status_code, "cannot be written" in answer.json()["detail"]) == (503, True)


def test_the_commands_do_the_same(place: Place) -> None:
    version = place.publish()
    assert place.digits("pin", "dcgan", str(version)) == (0, f"version {version} of dcgan is pinned\n")
    eventually(lambda: find_default(place.api, "dcgan") == version, "the service follows", seconds=5)
    assert f"{version} ★ pinned" in place.digits("models")[1]
    status, said = place.digits("delete", "dcgan", str(version), "--yes")
    assert (status, "pin another one first" in said) == (1, True)
    assert place.digits("pin", "dcgan", "--none") == (0, "the best version of dcgan answers again\n")
    status, said = place.digits("delete", "dcgan", str(version))  # nobody answers the question
    assert (status, "for ever?" in said) == (1, True)
    assert place.digits("delete", "dcgan", str(version), "--yes") == (0, f"version {version} of dcgan is removed\n")
    assert place.digits("hide", "dcgan", "2") == (0, "version 2 of dcgan is hidden\n")
    assert "hidden of dcgan: 2" in place.digits("models")[1]
    eventually(lambda: list_numbers(place.api, "dcgan") == [1], "the service follows", seconds=5)
    assert place.digits("show", "dcgan", "2") == (0, "version 2 of dcgan is shown\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pin", "dcgan"), "--none"),
        (("pin", "dcgan", "1", "--none"), "--none"),
        (("pin", "dcgan", "99"), "no version 99"),
        (("delete", "dcgan", "99"), "no version 99"),
        (("delete", "dcgan", "1"), "digits hide"),
        (("hide", "dcgan", "99"), "no version 99"),
        (("show", "dcgan", "99"), "no version 99"),
        (("hide", "biggan", "1"), "vanilla"),
    ],
)
def test_what_cannot_be_is_said(place: Place, arguments: tuple[str, ...], said: str) -> None:
    status, output = place.digits(*arguments)
    assert status in (1, 2)
    assert said in output


def find_audits(text: str) -> list[str]:
    return re.findall(r" INFO \d+ digits\.audit[^:]*: (.*)", text)


def test_what_commands_change_is_in_the_audit_log(tmp_path: Path, valkey_url: str) -> None:
    old, version = (publish(tmp_path / "models", weights_seed=seed, **BEST).version for seed in (1, 2))
    backup, user = tmp_path / "file.tar", {"LOGNAME": "ada", "DIGITS_STATE_DIR": str(tmp_path)}
    redis = {"DIGITS_REDIS_URL": valkey_url}
    told = {
        ("pin", "dcgan", f"{version}"): [f"pin user=ada arch=dcgan version={version}"],
        ("pin", "dcgan", "--none"): ["pin user=ada arch=dcgan version=none"],
        ("hide", "wgan", "1"): ["hide user=ada arch=wgan version=1"],
        ("show", "wgan", "1"): ["show user=ada arch=wgan version=1"],
        ("hide", "wgan", "999"): [],
        ("backup", f"{backup}"): [],
        ("restore", f"{backup}"): [f"restore user=ada file={backup} versions=0 jobs=0"],
        ("gc", "--keep", "1"): [],
        ("gc", "--keep", "1", "--delete"): [f"gc user=ada what=old version path={tmp_path}/models/dcgan/{old}"],
        ("delete", "dcgan", f"{version}", "--yes"): [f"delete user=ada arch=dcgan version={version}"],
    }
    connect(valkey_url).flushdb()
    for arguments, lines in told.items():
        result = digits(tmp_path, *arguments, **user, **redis)
        assert find_audits(result.stderr) == lines, (arguments, result.stdout, result.stderr)


def test_over_http_a_shipped_version_is_hidden_not_deleted(tmp_path: Path) -> None:
    version = publish(tmp_path).version
    with running_api(tmp_path, DIGITS_MODEL_DIR=str(tmp_path)) as api:
        for path in (f"dcgan/{version}", "wgan/1"):
            assert api.delete(f"/models/{path}").status_code == 204
        logged = find_audits("".join(log.read_text() for log in tmp_path.glob("*.log")))
    who = "client=127.0.0.1"
    assert logged == [f"delete arch=dcgan version={version} {who}", f"hide arch=wgan version=1 {who}"]
