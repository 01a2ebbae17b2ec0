"""The files around the code (Dockerfile, compose file, Makefile, README) match the code."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from app.cli import cli

ROOT = Path(__file__).parents[1]
COMMANDS = set(typer.main.get_command(cli).commands)  # type: ignore[attr-defined]


def dockerfile() -> list[list[str]]:
    """The instructions, each split into words."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def test_every_copied_file_exists_and_reaches_the_build() -> None:
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = [words[1:-1] for words in dockerfile() if words[0] == "COPY" and not words[1].startswith("--from")]
    assert copies
    for source in (name for names in copies for name in names):
        assert (ROOT / source).exists(), source
        assert source in let_through, source


def test_copies_from_the_build_are_made_there() -> None:
    stages = [words[words.index("AS") + 1] for words in dockerfile() if words[0] == "FROM" and "AS" in words]
    for words in dockerfile():
        if words[0] == "COPY" and words[1].startswith("--from="):
            assert words[1].removeprefix("--from=") in stages


def test_the_image_runs_a_command_of_digits_as_a_user_without_rights() -> None:
    last = {words[0]: " ".join(words[1:]) for words in dockerfile()}
    assert last["ENTRYPOINT"] == '["digits"]'
    assert yaml.safe_load(last["CMD"])[0] in COMMANDS
    assert last["USER"] == "digits"
    assert "livez" in last["HEALTHCHECK"]


def test_the_services_run_commands_of_digits() -> None:
    services = compose()["services"]
    assert set(services) == {"redis", "api", "worker", "worker-gpu"}
    for name, service in services.items():
        if name == "redis":
            continue
        assert service["command"][0] in COMMANDS
        assert service["read_only"] is True
        assert service["volumes"] == ["models:/models"]
        assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert service["environment"]["DIGITS_REDIS_URL"] == "redis://redis:6379/0"
    assert set(compose()["volumes"]) == {"models", "redis"}


def test_redis_keeps_what_it_is_told() -> None:
    redis = compose()["services"]["redis"]
    command = " ".join(redis["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert redis["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]
    assert redis["volumes"] == ["redis:/data"]
    assert "ports" not in redis  # it has no password


def test_the_api_is_published_on_loopback_alone() -> None:
    assert compose()["services"]["api"]["ports"] == ["127.0.0.1:8000:8000"]


def test_the_gpu_is_reserved_in_its_own_profile() -> None:
    worker = compose()["services"]["worker-gpu"]
    assert worker["profiles"] == ["gpu"]
    (reserved,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert worker["environment"]["DIGITS_DEVICE"] == "cuda"
    declared = {words[1].partition("=")[0] for words in dockerfile() if words[0] == "ARG"}
    assert set(worker["build"]["args"]) <= declared


def test_a_worker_has_time_to_give_its_job_back() -> None:
    grace = compose()["services"]["worker"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= 30


def shell_lines(path: Path) -> list[str]:
    text = path.read_text()
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_commands_of_the_readme_exist() -> None:
    lines = shell_lines(ROOT / "README.md")
    words = [shlex.split(line, comments=True) for line in lines]
    used = {line[1] for line in words if line and line[0].endswith("digits")}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {line.split()[1] for line in lines if line.startswith("make ")}
    assert used
    assert used <= COMMANDS
    assert {"run", "test"} <= made <= targets


def test_the_links_and_pictures_of_the_documents_exist() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), (document, target)


@pytest.mark.parametrize("command", [*sorted(COMMANDS), "keys add", "keys list", "keys revoke"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(cli, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Example:" in result.output


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    wanted = [
        *project["dependencies"],
        *(name for names in project["optional-dependencies"].values() for name in names),
    ]
    assert {re.split(r"[\[<>=~; ]", name)[0].lower() for name in wanted} - {"digits"} <= pinned
    assert set(project["optional-dependencies"]) == {"dev"}


def test_the_shipped_versions_are_small() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "models" / "pretrained").rglob("*") if path.is_file())
    assert size < 14_000_000
