"""``digits dataset``: its options. What it makes is tested over HTTP, too."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def digits(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DIGITS_MODEL_DIR": str(folder / "models"), "COLUMNS": "200"}
    command = [sys.executable, "-m", "app", "dataset", "--arch", "vanilla", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_set_is_written_whole(tmp_path: Path) -> None:
    output = tmp_path / "set.zip"
    done = digits("--per-class", "3", "--format", "png", "--output", str(output), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30 digits of vanilla version 1" in done.stdout
    with zipfile.ZipFile(output) as archive:
        assert len([name for name in archive.namelist() if name.endswith(".png")]) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-o", "."], "is no file"),
        (["-o", os.devnull], "is no file"),
        (["-o", "nowhere/set.zip"], "there is no folder nowhere"),
        (["-o", "set.zip", "--per-class", "0"], "--per-class: Input should be greater than or equal to 1"),
        (["-o", "set.zip", "--min-confidence", "1"], "--min-confidence: Input should be less than or equal to 0.999"),
        (["-o", "set.zip", "--part", "0/3"], "--part: should be as 3/16"),
        (["-o", "set.zip", "--part", "2/99"], "with n at most 9 for this set"),
        (["-o", "set.zip", "--version", "99"], "vanilla has no version 99"),
    ],
    ids=str,
)
def test_what_is_refused_before_the_work(arguments: list[str], error: str, tmp_path: Path) -> None:
    done = digits(*arguments, folder=tmp_path)
    assert done.returncode == 1, done.stdout
    assert error in done.stderr
    assert not (tmp_path / "set.zip").exists()
