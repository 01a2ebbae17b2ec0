"""What cannot work is said in a line at the start, and is not tried again and again."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.processes.valkey import find_free_port
from app.settings import ApiSettings
from tests.processes import Process, answers, eventually, running, running_api, running_valkey

SECONDS = 60.0

OF_WORKERS = {
    "DIGITS_DATA_DIR": ("/nowhere", "/nowhere/train-images-idx3-ubyte.gz is missing"),
    "DIGITS_MODEL_DIR": ("/proc/x", "DIGITS_MODEL_DIR: cannot write to /proc/x"),
    "DIGITS_DEVICE": ("cuda", "DIGITS_DEVICE=cuda, but"),
}
OF_THE_SERVICE = {
    "DIGITS_DEVICE": ("cuda", "DIGITS_DEVICE=cuda, but"),
    "DIGITS_STATE_DIR": ("/proc/x", "DIGITS_STATE_DIR: cannot write to /proc/x"),
    "DIGITS_HOST": ("nohost.invalid", "this machine has no such address: set DIGITS_HOST"),
}


def run_up(folder: Path, **environment: str) -> str:
    """The output of a ``digits up`` that has to end with status 1."""
    defaults = {"DIGITS_STATE_DIR": str(folder), "DIGITS_MODEL_DIR": str(folder / "models")}
    address = {"DIGITS_PORT": str(find_free_port()), "DIGITS_API_PROCESSES": "1"}
    with running(folder, "up", **{**defaults, **address, **environment}) as process:
        assert process.popen.wait(SECONDS) == 1, process.output
        return process.output


@pytest.mark.parametrize("name", OF_WORKERS)
def test_a_setting_that_cannot_work_ends_a_worker_with_the_reason(tmp_path: Path, name: str) -> None:
    value, said = OF_WORKERS[name]
    environment = {"DIGITS_MODEL_DIR": str(tmp_path), "DIGITS_REDIS_URL": "redis://127.0.0.1:1", name: value}
    with running(tmp_path, "worker", **environment) as worker:
        assert worker.popen.wait(SECONDS) == 1
        assert said in worker.output
        assert "Traceback" not in worker.output


@pytest.mark.parametrize("name", OF_THE_SERVICE)
def test_a_setting_that_cannot_work_ends_the_service_with_the_reason(tmp_path: Path, name: str) -> None:
    value, said = OF_THE_SERVICE[name]
    output = run_up(tmp_path, DIGITS_OPEN="true", **{name: value})
    assert said in output
    assert "Traceback" not in output
    assert "starting it again" not in output
    if name != "DIGITS_HOST":
        assert "DIGITS_PORT" not in output


def test_a_fault_of_the_code_ends_the_service_with_the_reason(tmp_path: Path) -> None:
    """Every child, and every child of a child, would fail again and again."""
    root = Path(__file__).parents[2]
    for package in ("app", "worker", "models"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("data", "__pycache__"))
    with (tmp_path / "app" / "engine.py").open("a") as file:
        file.write("\nthis is no Python\n")
    environment = {"DIGITS_DATA_DIR": str(root / "models" / "data" / "mnist"), "PYTHONPATH": str(tmp_path)}
    output = run_up(tmp_path, DIGITS_API_PROCESSES="2", **environment)
    assert "this is no Python" in output
    assert "api 1 ended with exit status 1 at its start" in output or "api 2 ended" in output
    assert "error: api ended with exit status 1 at its start: see above" in output


def test_serve_says_that_there_is_no_model_directory_and_where_it_answers(tmp_path: Path) -> None:
    port = str(find_free_port())
    told = {"DIGITS_MODEL_DIR": str(tmp_path / "none"), "DIGITS_API_PROCESSES": "2"}
    with running(tmp_path, "serve", "--port", port, **told) as process:
        eventually(lambda: "answers on" in process.output, "it says where")
    assert process.output.count(f"the service answers on http://127.0.0.1:{port}") == 1
    assert process.output.count("loaded dcgan version 1") == 1  # however many processes load it
    assert process.output.count("none does not exist yet") == 1


def test_an_unknown_setting_is_told_once_with_the_nearest_one(tmp_path: Path) -> None:
    with running(tmp_path, "serve", "--port", str(find_free_port()), DIGITS_PROT="1", DIGITS_QQQ="1") as process:
        eventually(lambda: "answers on" in process.output, "it starts")
    assert process.output.count("DIGITS_PROT is no setting and is ignored; is DIGITS_PORT meant?") == 1
    assert process.output.count("DIGITS_QQQ is no setting and is ignored\n") == 1


def test_every_documented_setting_is_known(tmp_path: Path) -> None:
    """And every known one is documented."""
    documented = Path(__file__).parents[2].joinpath("docs", "running.md").read_text()
    for name in ApiSettings.list_names():
        assert f"`{name.removeprefix('DIGITS_')}`" in documented or name in documented, name


def test_a_redis_that_is_away_is_waited_for(tmp_path: Path) -> None:
    """It may come later, so it is no reason to end."""
    url = f"redis://127.0.0.1:{find_free_port()}/0"
    models = str(tmp_path / "models")
    worker = Process(tmp_path, "worker", DIGITS_REDIS_URL=url, DIGITS_MODEL_DIR=models)
    try:
        eventually(lambda: "redis cannot be used yet" in worker.output, "it waits")
        with running_api(tmp_path, DIGITS_REDIS_URL=url, DIGITS_MODEL_DIR=models) as api:
            assert api.get("/readyz").json()["redis"] == "away"
        assert worker.popen.poll() is None
    finally:
        worker.end()


def test_neither_closed_streams_nor_a_poor_locale_harm_a_service(tmp_path: Path) -> None:
    """A closed stdout made the worker start again and again, a path with other letters ended ``up``."""
    port = find_free_port()
    folder = tmp_path / "größe"
    folder.mkdir()
    environment = {
        **os.environ,
        "DIGITS_PORT": str(port),
        "DIGITS_STATE_DIR": str(folder),
        "DIGITS_MODEL_DIR": str(folder / "models"),
        "DIGITS_API_PROCESSES": "1",
        "CHANGES_FOR_TESTS": "few,unmeasured",
        **{"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    }
    command = f"exec {sys.executable} -m tests.system.host up <&- >&- 2>&-"
    process = subprocess.Popen(["sh", "-c", command], env=environment, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS) as api:
            eventually(lambda: answers(api) and api.get("/readyz").json()["redis"] == "ok", "it is ready")
            job_id = api.post("/train", json={"arch": "vanilla", "recipe": "book", "epochs": 1}).json()["id"]
            eventually(lambda: api.get(f"/jobs/{job_id}").json()["version"], "the job makes a version")
    finally:
        process.terminate()
        assert process.wait(SECONDS) == 0


def test_without_shared_memory_the_service_ends_with_the_reason(tmp_path: Path) -> None:
    command = "mount -t tmpfs -o ro none /dev/shm && exec " + f"{sys.executable} -m app up"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace of its own")
    environment = {**os.environ, "DIGITS_PORT": str(find_free_port()), "DIGITS_STATE_DIR": str(tmp_path)}
    ended = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert (ended.returncode, "/dev/shm must be writable" in ended.stderr) == (1, True), ended.stderr


def test_a_worker_says_what_it_is_told_and_no_more(tmp_path: Path) -> None:
    """Celery would announce that a second Ctrl-C ends all tasks, which is not so here."""
    with running_valkey(tmp_path) as (_, url):
        worker = Process(tmp_path, "worker", DIGITS_REDIS_URL=url, DIGITS_MODEL_DIR=str(tmp_path / "models"))
        eventually(lambda: "ready" in worker.output, "it is ready")
        assert worker.end(signal.SIGINT) == 0
        assert "a job that runs saves its state and returns to the queue" in worker.output
        assert "cold shutdown" not in worker.output.lower()
