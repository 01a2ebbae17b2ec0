"""The wheel: everything is inside, and it works without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

from tests.versions import NEXT

ROOT = Path(__file__).parents[1]
# `digits`, without the finder of an editable install, which would fill in what the wheel lacks
ALONE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in str(finder)]
from app.cli import main
main()
"""
SOURCES = ("app", "worker", "models", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools leaves files where it builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", out, source], check=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in its own folder, which comes before the checkout on Python's path."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``digits …`` from the wheel, in ``folder``, without any ``DIGITS_*`` variable."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIGITS_")}
    environment: Mapping[str, str] = {
        **inherited, "PYTHONPATH": str(installed), "XDG_DATA_HOME": str(folder / "data"), "COLUMNS": "200"
    }  # fmt: skip
    command = [sys.executable, "-c", ALONE, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_generators_classifier_data_and_scripts_are_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("app", "worker", "models"):
        expected = {
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert expected <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("models/data/mnist/README.md") for name in names)  # MNIST's attribution
    assert not any(name.startswith("tests") for name in names)


def test_it_draws_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    result = run(installed, tmp_path, "generate", "--arch", "wgan", "-n", "16", "--seed", "3", "-o", "wgan.png")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "wgan.png") as picture:
        assert picture.size == (118, 118)
    said = run(installed, tmp_path, "--version").stdout
    assert said == f"digits {version('digits')}\n"


def test_versions_and_reports_are_kept_in_the_users_data_directory(installed: Path, tmp_path: Path) -> None:
    trained = run(installed, tmp_path, "train", "--arch", "vanilla", "--recipe", "book", "--epochs", "1")
    assert trained.returncode == 0, trained.stderr
    assert f"in {tmp_path / 'data' / 'digits' / 'models' / 'vanilla' / str(NEXT['vanilla'])}" in trained.stdout
    result = run(installed, tmp_path, "report")
    assert result.returncode == 0, result.stderr
    written = tmp_path / "data" / "digits" / "report"
    assert sorted(path.name for path in written.iterdir()) == ["fid.png", "learning.png", "metrics.md", "samples.png"]
    assert f"| vanilla | {NEXT['vanilla']} | book | 1 |" in (written / "metrics.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
