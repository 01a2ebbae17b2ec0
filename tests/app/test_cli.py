"""The command line, run in processes."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import versions
from models.archs import ARCHS
from models.manifest import GENERATOR
from tests.processes import eventually, running
from tests.versions import SHIPPED, publish

LISTED = [(arch, number) for arch, numbers in sorted(SHIPPED.items()) for number in numbers]


def digits(folder: Path, *arguments: str, module: str = "app", **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIGITS_")}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**inherited, "DIGITS_MODEL_DIR": str(folder / "models"), "COLUMNS": "160", **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.parametrize("arch", ARCHS)
def test_generate_draws_without_a_server(tmp_path: Path, arch: str) -> None:
    output = tmp_path / "picture.png"
    result = digits(tmp_path, "generate", "--arch", arch, "-n", "16", "-o", str(output), "--seed", "3")
    assert result.returncode == 0, result.stderr
    with Image.open(output) as image:
        assert image.size == (118, 118)
        assert image.text["seed"] == "3"  # type: ignore[attr-defined]


def test_the_name_of_the_file_chooses_the_format(tmp_path: Path) -> None:
    for name in ("a.webp", "a.zip", "a.json"):
        result = digits(tmp_path, "generate", "--arch", "wgan", "-n", "2", "-o", str(tmp_path / name))
        assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "a.webp") as webp:
        assert webp.format == "WEBP"
    assert len(zipfile.ZipFile(io.BytesIO((tmp_path / "a.zip").read_bytes())).namelist()) == 2
    assert len(json.loads((tmp_path / "a.json").read_text())["images"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "--arch", "biggan", "-o", "a.png"], "vanilla"),
        (["generate", "--arch", "wgan", "-o", "a.gif"], ".png"),
        (["generate", "--arch", "wgan", "-o", "no/such/a.png"], "no/such"),
        (["generate", "--arch", "wgan", "-o", "a.png", "--version", "99"], "no version 99"),
        (["generate", "--arch", "wgan", "-o", "a.png", "-n", "0"], "x>=1"),
        (["generate", "--arch", "wgan", "-o", "a.png", "-n", "2", "--seed", "2147483647"], "at most 2147483646"),
        (["samples", "--arch", "wgan", "-o", "a.png", "--epoch", "999"], "epochs"),
        (["generate", "--arch", "vanilla", "-n", "1024", "--columns", "1024", "-o", "a.webp"], "16383"),
        (["samples", "--arch", "wgan", "-o", "a.zip"], ".webp"),
        (["train", "--arch", "wgan", "--epochs", "0"], "1<=x<=1000"),
        (["train", "--arch", "vanilla", "--recipe", "logistic"], "choose book or tuned"),
        (["train", "--arch", "wgan", "--measure-every", "0"], "1<=x<=1000"),
        (["train-classifier", "-o", "classifier.pt"], ".safetensors"),
        (["train-classifier", "-o", "no/such/classifier.safetensors"], "no/such"),
        (["worker"], "DIGITS_REDIS_URL"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = digits(tmp_path, *arguments)
    assert result.returncode in (1, 2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DIGITS_PORT", "x"),
        ("DIGITS_PORT", "0"),
        ("DIGITS_DEVICE", "tpu"),
        ("DIGITS_REDIS_URL", "http://me:secret@x"),
        ("DIGITS_REDIS_URL", "redis://:secret/word@x:6379/0"),
        ("DIGITS_REDIS_URL", "redis://:secret@x/0?foo=bar"),
    ],
)
def test_a_bad_setting_is_named_and_not_shown(tmp_path: Path, name: str, value: str) -> None:
    result = digits(tmp_path, "up", **{name: value})
    assert result.returncode == 2
    assert name in result.stderr
    assert "secret" not in result.stderr
    assert "Traceback" not in result.stderr


def test_train_publishes_what_models_lists_and_samples_shows(tmp_path: Path) -> None:
    chosen = ("--arch", "vanilla", "--recipe", "book", "--epochs", "2", "--seed", "0", "--measure-every", "1")
    result = digits(tmp_path, "train", *chosen, module="tests.system.host", CHANGES_FOR_TESTS="few")
    assert result.returncode == 0, result.stderr
    assert "epoch 2/2" in result.stderr
    (version,) = (
        number
        for arch, number in versions.find_folders(tmp_path / "models")
        if arch == "vanilla" and number not in SHIPPED[arch]
    )
    manifest, _ = versions.read_generator(tmp_path / "models" / "vanilla" / str(version))
    assert manifest.epochs == 2
    assert f"published vanilla version {version} after 2 epochs" in result.stdout
    history = versions.read_history(tmp_path / "models" / "vanilla" / str(version))
    first, last = (epoch["metrics"] for epoch in history)
    assert first["fid"] != last["fid"]
    assert last == manifest.metrics

    listed = digits(tmp_path, "models")
    assert "trained" in listed.stdout
    assert "book" in listed.stdout
    assert f"{manifest.metrics['fid']:.3g}" in listed.stdout
    assert f"{manifest.floors['fid']:.3g}" in listed.stdout

    output = tmp_path / "samples.png"
    shown = digits(tmp_path, "samples", "--arch", "vanilla", "--version", str(version), "-o", str(output))
    assert shown.returncode == 0, shown.stderr
    with Image.open(output) as rows:
        assert rows.size == (16 * 30 - 2, 2 * 30 - 2)  # one row per epoch
    digits(tmp_path, "samples", "--arch", "vanilla", "--version", str(version), "--epoch", "2", "-o", str(output))
    with Image.open(output) as picture:
        grid = np.asarray(picture)
    samples = versions.read_samples(tmp_path / "models" / "vanilla" / str(version))
    assert (grid[:28, 30:58] == samples[1, 1].numpy()).all()


def test_a_rejected_version_is_listed_with_the_reason(tmp_path: Path) -> None:
    version = publish(tmp_path / "models").version
    (tmp_path / "models" / "dcgan" / str(version) / GENERATOR).write_bytes(b"")
    assert "rejected: generator.safetensors has 0 bytes" in digits(tmp_path, "models").stdout


@pytest.mark.parametrize("columns", ["80", "140"])
def test_the_table_of_versions_fits_into_its_terminal(tmp_path: Path, columns: str) -> None:
    lines = digits(tmp_path, "models", COLUMNS=columns).stdout.splitlines()
    assert max(map(len, lines)) <= int(columns)
    for word in ("arch", "version", "recipe", "epochs", "FID", "source", "state"):
        assert word in lines[0]
    assert ("EMD" in lines[0]) is (columns == "140")
    assert not any("…" in line for line in lines)
    assert [line.split()[0] for line in lines[1 : len(LISTED) + 2]] == [*(arch for arch, _ in LISTED), "real"]


def test_versions_are_whole_lines_in_a_pipe_and_whole_as_json(tmp_path: Path) -> None:
    piped = digits(tmp_path, "models", COLUMNS="").stdout.splitlines()
    assert "EMD" in piped[0]
    assert [line.split()[0] for line in piped[1:]] == [*(arch for arch, _ in LISTED), "real"]
    listed = json.loads(digits(tmp_path, "models", "--json", COLUMNS="20").stdout)
    assert [(one["arch"], one["version"]) for one in listed] == LISTED
    assert [(one["arch"], one["version"]) for one in listed if one["default"]] == [
        ("dcgan", 1), ("vanilla", 1), ("wgan", 3),
    ]  # fmt: skip
    assert listed[0]["metrics"]["fid"] < 5


def test_what_looks_like_markup_is_written_as_it_is(tmp_path: Path) -> None:
    result = digits(tmp_path, "report", "--output", "/proc/[report]/[red]")
    assert result.returncode == 1
    assert "/proc/[report]" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_epoch_leaves_no_version(tmp_path: Path, number: int) -> None:
    models = tmp_path / "models"
    with running(tmp_path, "train", "--arch", "wgan", "--recipe", "book", DIGITS_MODEL_DIR=str(models)) as process:
        eventually((models / "wgan").is_dir, "it starts")
        assert process.end(number) in (130, -number)  # during the loop, or before it began
    assert not list((models / "wgan").iterdir())


def test_a_signal_after_an_epoch_leaves_a_valid_version(tmp_path: Path) -> None:
    models = tmp_path / "models"
    environment = {"DIGITS_MODEL_DIR": str(models), "CHANGES_FOR_TESTS": "unmeasured"}
    command = ("train", "--arch", "vanilla", "--recipe", "book")
    with running(tmp_path, *command, module="tests.system.host", **environment) as process:
        eventually(lambda: "epoch 1/100" in process.output, "an epoch has passed")
        assert process.end(signal.SIGINT) == 0, process.output
        assert "stopping after this step" in process.output
    (folder,) = (models / "vanilla").glob("[0-9]*")
    manifest, _ = versions.read_generator(folder)
    assert 1 <= manifest.epochs < 100
    assert manifest.recipe["epochs"] == 100


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    environment = {"DIGITS_MODEL_DIR": str(tmp_path / "models"), "FORCE_COLOR": "1", "COLUMNS": "160"}
    with running(tmp_path, "train", "--arch", "vanilla", "--recipe", "book", **environment) as process:
        eventually(lambda: "epoch 2/100" in process.output, "the second epoch is shown")
        for part in ("images/s", "D ", "G ", "0:"):
            assert part in process.output
        process.popen.kill()  # it has shown what it can; its end would take the metrics


def test_a_terminal_that_closes_loses_no_finished_epoch(tmp_path: Path) -> None:
    """The signal is SIGHUP, and nothing can be written to the terminal any more."""
    inside, outside = pty.openpty()
    models = tmp_path / "models"
    environment = {**os.environ, "DIGITS_MODEL_DIR": str(models), "CHANGES_FOR_TESTS": "unmeasured"}
    command = [sys.executable, "-m", "tests.system.host", "train", "--arch", "vanilla", "--recipe", "book"]
    # Under nohup, which the tests may run under, the signal would be ignored.
    in_terminal = ["env", "--default-signal=HUP", "setsid", "--ctty", "--wait"]
    process = subprocess.Popen([*in_terminal, *command], env=environment, stdin=outside, stdout=outside, stderr=outside)
    os.close(outside)
    shown = b""
    while not re.search(rb"epoch ([2-9]|..)/100", shown):
        shown += os.read(inside, 10_000)
    os.close(inside)
    process.wait(60)
    (folder,) = eventually(lambda: list((models / "vanilla").glob("[0-9]*/manifest.json")), "a version is there")
    manifest, _ = versions.read_generator(folder.parent)
    assert 1 <= manifest.epochs < 100
