"""The comparison: what the trained versions drew, how they learned, and how good they are.

Of every architecture and recipe the longest run is shown. Reads versions, writes pictures and a
table; knows nothing of training or HTTP. Needs the extra ``report`` (matplotlib).

    digits report --output docs/report
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from app.rendering import grid
from models import checkpoint, classifier
from models.archs import ARCHS
from models.checkpoint import Manifest

EPOCHS = (1, 2, 4, 10, 50, 100)  # whose images are shown, where a run has them

# Published for a Colab GPU, the recipe "book", 100 epochs.
COLAB_SECONDS = {"vanilla": 22 * 60, "dcgan": 36 * 60 + 17, "wgan": 2 * 3600 + 50 * 60 + 43}


@dataclass(frozen=True)
class Run:
    """A version with all that was recorded of its training."""

    manifest: Manifest
    folder: Path
    history: list[dict[str, Any]]  # one an epoch

    @property
    def recipe(self) -> str:
        return str(self.manifest.recipe.get("name"))

    def series(self, name: str) -> list[float]:
        return [epoch[name] for epoch in self.history]


def runs(model_dir: Path) -> list[Run]:
    """The longest run of each architecture and recipe, the newest of equals; damaged versions are left out."""
    longest: dict[tuple[str, str], Run] = {}
    for folder in checkpoint.folders(model_dir).values():
        try:
            run = Run(checkpoint.read_manifest(folder), folder, checkpoint.read_history(folder))
        except checkpoint.InvalidVersionError:
            continue
        key = (run.manifest.arch, run.recipe)
        if key not in longest or run.manifest.epochs >= longest[key].manifest.epochs:
            longest[key] = run
    order = list(ARCHS)
    return sorted(longest.values(), key=lambda run: (order.index(run.manifest.arch), run.recipe))


def write(found: list[Run], output: Path) -> list[Path]:
    """All of the report into ``output``; the files written.

    Raises:
        OSError: they cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in FIGURES.items():
        figure = draw(found)
        path = output / name
        figure.savefig(path, dpi=100)
        pyplot.close(figure)
        written.append(path)
    table = output / "metrics.md"
    table.write_text(metrics_table(found))
    return [*written, table]


def samples(found: list[Run]) -> Figure:
    """The same 64 latents after some epochs, a row each run."""
    figure, rows = _panels(found, len(EPOCHS), size=2.2)
    for run, row in zip(found, rows, strict=True):
        images = checkpoint.read_samples(run.folder).numpy()
        shown = [epoch for epoch in EPOCHS if epoch <= len(images)]
        if len(images) not in shown:
            shown = [*shown, len(images)][-len(EPOCHS) :]
        for axes in row:
            axes.axis("off")
        for axes, epoch in zip(row, shown, strict=False):
            axes.imshow(grid(images[epoch - 1], 8, 1), cmap="gray", vmin=0, vmax=255)
            axes.set_title(f"{_label(run)}, epoch {epoch}", fontsize=7)
    return figure


def learning(found: list[Run]) -> Figure:
    """Losses of G and D, and what D says of real and fake images, by epoch."""
    figure, rows = _panels(found, 2, size=3.2)
    for run, (losses, verdicts) in zip(found, rows, strict=True):
        epochs = run.series("epoch")
        for axes, lines in (
            (losses, {"d_loss": "loss of D", "g_loss": "loss of G"}),
            (verdicts, {"d_real": "D(real)", "d_fake": "D(fake)"}),
        ):
            for name, label in lines.items():
                axes.plot(epochs, run.series(name), label=label, marker="." if len(epochs) < 30 else None)
            axes.set_title(_label(run), fontsize=9)
            axes.set_xlabel("epoch")
            axes.legend(fontsize=8)
        verdicts.set_ylabel("probability" if run.manifest.recipe.get("sigmoid") else "logit or score")
    return figure


def fid(found: list[Run]) -> Figure:
    """FID against the seconds of training, both logarithmic, a panel each architecture."""
    figure, axes_of = pyplot.subplots(1, len(ARCHS), figsize=(13, 4.2), layout="constrained", squeeze=False)
    floor = classifier.facts().floors["fid"]
    color = {name: f"C{i}" for i, name in enumerate(sorted({run.recipe for run in found}))}
    for arch, axes in zip(ARCHS, axes_of[0], strict=True):
        for run in found:
            measured = [epoch for epoch in run.history if epoch.get("metrics")]
            if run.manifest.arch == arch and measured:
                seconds = [epoch["seconds"] for epoch in measured]
                found_fid = [epoch["metrics"]["fid"] for epoch in measured]
                axes.plot(seconds, found_fid, marker=".", label=run.recipe, color=color[run.recipe])
        axes.axhline(floor, linestyle=":", color="gray", label="real images")
        axes.set(title=arch, xscale="log", yscale="log", xlabel="seconds of training", ylabel="FID")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=8)
    return figure


def metrics_table(found: list[Run]) -> str:
    """A Markdown table: the metrics of every run, the floors, and the seconds beside those on Colab."""
    floors = classifier.facts().floors
    lines = [
        "| arch | recipe | epochs | " + " | ".join(name.replace("_", " ") for name in floors) + " | seconds | Colab |",
        "|---" * (len(floors) + 5) + "|",
    ]
    for run in found:
        manifest = run.manifest
        figures = [f"{manifest.metrics[name]:.3f}" if name in manifest.metrics else "" for name in floors]
        colab = f"{COLAB_SECONDS[manifest.arch]:,} for 100 epochs" if run.recipe == "book" else ""
        facts = [manifest.arch, run.recipe, str(manifest.epochs), *figures, f"{manifest.wall_seconds:,.0f}", colab]
        lines.append("| " + " | ".join(facts) + " |")
    lines.append("| real images | | | " + " | ".join(f"{floor:.3f}" for floor in floors.values()) + " | | |")
    return "\n".join(lines) + "\n"


FIGURES: dict[str, Callable[[list[Run]], Figure]] = {"samples.png": samples, "learning.png": learning, "fid.png": fid}


def _label(run: Run) -> str:
    return f"{run.manifest.arch}, {run.recipe}"


def _panels(found: list[Run], columns: int, size: float) -> tuple[Figure, Iterator[list[Axes]]]:
    """A figure with a row of panels for each run."""
    figure, rows = pyplot.subplots(
        len(found), columns, figsize=(columns * size * 1.2, len(found) * size), layout="constrained", squeeze=False
    )
    return figure, (list(row) for row in rows)
