"""Imported versions in everything that shows versions, and the commands that make them."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from app import charts, report
from app.cli.imports import Latents
from app.generators import Generators
from app.routes.models import describe
from models import classifier, versions
from models.sampling import LATENTS
from tests.app.test_cli import digits
from tests.models.test_importing import import_cheaply
from tests.versions import NEXT, publish


def test_the_latest_version_may_be_imported(tmp_path: Path, foreign: Path) -> None:
    trained = publish(tmp_path, "vanilla").version
    imported = import_cheaply(tmp_path, foreign).version
    generators = Generators(tmp_path, torch.device("cpu"))
    generators.refresh()
    assert [entry.source for entry in generators.entries if entry.folder.is_relative_to(tmp_path)] == [
        "trained", "imported",
    ]  # fmt: skip
    loaded = generators.get("vanilla", "latest")
    assert loaded.manifest.version == imported == trained + 1
    assert loaded.draw([0, 1]).std() > 0
    listed = describe(generators.get_entry("vanilla", str(imported))).model_dump()
    assert (listed["source"], listed["recipe"], listed["epochs"]) == ("imported", "imported", 0)
    assert listed["metrics"] == {"fid": 9.0}
    assert listed["floors"] == classifier.facts().floors


def test_a_rejected_import_is_still_one(tmp_path: Path, foreign: Path) -> None:
    version = import_cheaply(tmp_path, foreign).version
    (tmp_path / "vanilla" / str(version) / "generator.safetensors").write_bytes(b"")
    generators = Generators(tmp_path, torch.device("cpu"))
    generators.refresh()
    entry = generators.get_entry("vanilla", str(version))
    assert (entry.source, entry.state) == ("imported", "rejected")


@pytest.mark.parametrize("draw", report.FIGURES.values())
def test_every_figure_takes_a_version_without_a_history(
    tmp_path: Path, foreign: Path, draw: Callable[[Sequence[charts.Run]], Figure]
) -> None:
    """Alone, and beside one that has a history."""
    import_cheaply(tmp_path, foreign)
    found = report.find_runs(tmp_path)
    (run,) = (run for run in found if run.manifest.imported)
    assert run.history == []
    for runs in ([run], [found[0], run]):
        draw(runs).savefig(tmp_path / "figure.png")
    assert f"| vanilla | {NEXT['vanilla']} | imported | 0 | 9.000 |" in report.make_table([run])


def test_an_import_is_measured_listed_and_gets_samples(tmp_path: Path, foreign: Path) -> None:
    files = str(foreign / "vanilla_whole.pt"), "--discriminator", str(foreign / "d_vanilla.pt")
    made = digits(tmp_path, "import", *files, "--arch", "vanilla", "--latents", "normal")
    assert made.returncode == 0, made.stderr
    assert "measuring 10,000 images" in made.stderr
    folder = tmp_path / "models" / "vanilla" / str(NEXT["vanilla"])
    manifest, _ = versions.read_generator(folder)
    assert f"as vanilla version {manifest.version} in {folder}" in made.stdout
    assert f"arch=vanilla version={manifest.version} file={files[0]}" in made.stderr  # the audit log
    assert manifest.latents == "normal"
    assert manifest.metrics.keys() == manifest.floors.keys()
    assert manifest.metrics["fid"] > 100  # it was never trained
    assert manifest.classifier_sha256 == classifier.sha256()

    epochs = [np.random.default_rng(epoch).random((5, 28, 28), np.float32) for epoch in range(3)]
    (tmp_path / "list.pkl").write_bytes(pickle.dumps(epochs))
    again = digits(tmp_path, "import-samples", str(tmp_path / "list.pkl"), "--arch", "vanilla")
    assert again.returncode == 0, again.stderr
    assert f"arch=vanilla version={manifest.version + 1} file={tmp_path / 'list.pkl'}" in again.stderr
    assert f"as vanilla version {manifest.version + 1}: the weights of version {manifest.version}" in again.stdout

    output = tmp_path / "samples.png"
    shown = digits(tmp_path, "samples", "--arch", "vanilla", "--version", "latest", "-o", str(output))
    assert shown.returncode == 0, shown.stderr
    with Image.open(output) as picture:
        assert picture.size == (5 * 30 - 2, 3 * 30 - 2)  # one row per epoch
        grid = np.asarray(picture)
    assert (grid[30:58, 60:88] == (epochs[1][2] * 255).round()).all()

    listed = digits(tmp_path, "models")
    assert [line.split()[2:4] for line in listed.stdout.splitlines() if line.startswith("vanilla")][-2:] == [
        ["imported", "0"], ["imported", "3"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "none.pt", "--arch", "wgan"], "none.pt cannot be read: No such file"),
        (["import", "none.pt", "--arch", "wgan", "--latents", "cauchy"], "mixture"),
        (["import-samples", "none.pkl", "--arch", "wgan"], "wgan has no imported version: import one with"),
    ],
)
def test_what_cannot_be_imported_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = digits(tmp_path, *arguments)
    assert result.returncode in (1, 2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*"))


def test_the_latents_of_the_command_are_all_that_there_are() -> None:
    assert list(Latents) == list(LATENTS)
