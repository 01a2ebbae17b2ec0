"""A real Redis and a real API with the commands and settings of deploy/kubernetes answer the probes there."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from app.keys import Scope, add_key
from app.processes.valkey import find_free_port
from tests.manifests import FOLDER, Manifests, read_base
from tests.processes import eventually, running_api

FORWARDED = {"X-Forwarded-For": "192.0.2.7"}  # through a proxy: so not of this machine, which needs no key for metrics


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Redis with the arguments of the manifest."""
    if not shutil.which("redis-server"):
        assert not os.environ.get("CI"), "no redis-server: .ci/run installs it"
        pytest.skip("no redis-server")
    folder, port = tmp_path_factory.mktemp("redis"), find_free_port()
    container = Manifests(read_base()).container("redis")
    arguments = [{"/data": str(folder), "$(REDISCLI_AUTH)": "secret"}.get(text, text) for text in container["args"]]
    command = [*container["command"], *arguments, "--port", str(port), "--bind", "127.0.0.1", "--logfile", "log"]
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            eventually(lambda: _ask_redis(port, "secret", "ping") == (0, "PONG"), "Redis answers")
            yield port
        finally:
            process.terminate()


def test_redis_keeps_what_it_is_told_and_asks_for_the_password(redis_port: int) -> None:
    for name, value in (("appendonly", "yes"), ("maxmemory-policy", "noeviction"), ("maxmemory", str(512 * 2**20))):
        assert _ask_redis(redis_port, "secret", "config", "get", name) == (0, f"{name}\n{value}")
    assert _ask_redis(redis_port, "", "get", "x")[1].startswith("NOAUTH")


@pytest.mark.parametrize(
    ("probe", "password", "is_good"),
    [
        ("startupProbe", "secret", True),
        ("readinessProbe", "secret", True),
        ("readinessProbe", "wrong", False),
        ("livenessProbe", "secret", True),
        ("livenessProbe", "wrong", True),  # it answers, so it lives
    ],
)
def test_the_probes_of_redis_tell(redis_port: int, probe: str, password: str, is_good: bool) -> None:
    command = Manifests(read_base()).container("redis")[probe]["exec"]["command"]
    assert command[0] == "redis-cli"
    assert (_ask_redis(redis_port, password, *command[1:])[0] == 0) is is_good
    assert _ask_redis(find_free_port(), password, *command[1:])[0] != 0


def test_the_api_answers_its_probes_with_these_settings(redis_port: int, tmp_path: Path) -> None:
    manifests = Manifests(read_base())
    environment = manifests.read_environment("api", password="secret")
    environment["DIGITS_REDIS_URL"] = environment["DIGITS_REDIS_URL"].replace("redis:6379", f"127.0.0.1:{redis_port}")
    environment["DIGITS_KEYS_FILE"] = str(tmp_path / Path(environment["DIGITS_KEYS_FILE"]).name)
    key = add_key(Path(environment["DIGITS_KEYS_FILE"]), "operator", frozenset({Scope.ADMIN}))
    container = manifests.container("api")
    with running_api(tmp_path, DIGITS_HOST="0.0.0.0", DIGITS_MODEL_DIR=str(tmp_path), **environment) as client:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert client.get(container[probe]["httpGet"]["path"]).status_code == 200
        assert client.get("/readyz").json()["redis"] == "ok"
        by_name = {"Host": environment["DIGITS_ALLOWED_HOSTS"]}
        assert client.get("/models", headers=by_name).status_code == 401
        assert client.get("/models", headers={**by_name, "X-API-Key": key}).status_code == 200
        monitor = yaml.safe_load((FOLDER / "prometheus" / "podmonitor.yaml").read_text())
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        assert client.get(endpoint["path"], headers=by_name | FORWARDED).status_code == 401
        told = client.get(endpoint["path"], headers={"Authorization": f"Bearer {key}"}).text
    [rule] = yaml.safe_load((FOLDER / "prometheus" / "adapter.yaml").read_text())["rules"]["external"]
    name = rule["seriesQuery"].partition("{")[0]
    assert {line.split(" ")[0] for line in told.splitlines() if line.startswith(f"{name}{{")} == {
        f'{name}{{state="queued"}}', f'{name}{{state="running"}}',
    }  # fmt: skip
    assert f'{name}{{<<.LabelMatchers>>,state=~"queued|running"}}' in rule["metricsQuery"]
    [metric] = manifests.get("HorizontalPodAutoscaler", "worker")["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]


def _ask_redis(port: int, password: str, *arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "REDISCLI_AUTH": password} if password else {**os.environ}
    command = ["redis-cli", "-p", str(port), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout.strip()
