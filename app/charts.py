"""Figures about trainings: one function per figure.

The functions do not use matplotlib's global state, so several threads may draw at once. A recipe has
the same colour in every figure. Solid lines show D or real images, dashed lines G, generated images or an estimate.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from app.rendering import make_grid
from models import classifier, versions
from models.archs import ARCHS
from models.manifest import Manifest
from worker.recipes import RECIPES, DOutput

EPOCHS = (1, 2, 4, 10, 50, 100)  # epochs whose images are shown, if the run has them

COLORS: Mapping[str, str] = {name: f"C{number}" for number, name in enumerate(RECIPES)}
OTHER_COLOR = "gray"  # for a recipe that this release does not know

# objective → the name of its losses, their unit, and the label of D's output (without a Sigmoid)
LOSSES: Mapping[str, str] = {"bce": "binary cross-entropy", "logistic": "logistic", "wasserstein": "Wasserstein"}
UNITS: Mapping[str, str] = {"bce": "nats", "logistic": "nats", "wasserstein": "difference of scores"}
RAW_VERDICTS: Mapping[str, str] = {"bce": "logit", "logistic": "logit", "wasserstein": "score of the critic"}


@dataclass(frozen=True)
class Learning:
    """The record of a training, ended or not."""

    title: str
    recipe: Mapping[str, Any]  # as in a manifest
    history: list[dict[str, Any]]  # one per epoch

    @property
    def color(self) -> str:
        return COLORS.get(str(self.recipe.get("name")), OTHER_COLOR)

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The epochs that have metrics."""
        return [epoch for epoch in self.history if epoch.get("metrics")]

    def list_values(self, name: str) -> list[float]:
        return [epoch[name] for epoch in self.history]


@dataclass(frozen=True)
class Run:
    """A version and the record of its training."""

    manifest: Manifest
    folder: Path
    history: list[dict[str, Any]]  # one per epoch; none of an imported version

    @property
    def learning(self) -> Learning:
        said = self.manifest
        return Learning(f"{said.arch} {said.version}, {said.recipe_name}", said.recipe, self.history)


def draw_samples(runs: Sequence[Run]) -> Figure:
    """Images of the same latents after some epochs, one row per run."""
    figure, rows = _make_panels(len(runs), len(EPOCHS), size=2.2)
    for run, row in zip(runs, rows, strict=True):
        images, title = versions.read_samples(run.folder).numpy(), run.learning.title
        shown = [epoch for epoch in EPOCHS if epoch <= len(images)]
        if len(images) not in shown:
            shown = [*shown, len(images)][-len(EPOCHS) :]
        for axes in row:
            axes.axis("off")
        for axes, epoch in zip(row, shown, strict=False):
            axes.imshow(make_grid(images[epoch - 1]), cmap="gray", vmin=0, vmax=255)
            axes.set_title(f"{title}, epoch {epoch}" if run.manifest.epochs else title, fontsize=8)
    return figure


def draw_learning(runs: Sequence[Learning]) -> Figure:
    """Losses, D's output, and the earth mover's distance, by epoch; one row per run that has a record of them."""
    runs = [run for run in runs if run.history]  # an imported one has none
    figure, rows = _make_panels(len(runs), 3, size=3.2)
    for run, (losses, verdicts, distance) in zip(runs, rows, strict=True):
        objective = str(run.recipe.get("objective"))
        loss = LOSSES.get(objective, objective)
        _draw_lines(losses, run, {"d_loss": f"loss of D ({loss})", "g_loss": f"loss of G ({loss})"})
        losses.set_ylabel(f"loss, {UNITS.get(objective, 'no unit')}")
        _draw_lines(verdicts, run, {"d_real": "D(real), mean of the epoch", "d_fake": "D(fake), mean of the epoch"})
        verdicts.set_ylabel(_name_verdict(run.recipe, str(run.history[0].get("d_output", DOutput.RAW))))
        _draw_distance(distance, run, estimated=objective == "wasserstein")
        epochs = run.list_values("epoch")
        for axes in (losses, verdicts, distance):
            axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)  # also if there is one, or none is measured yet
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def draw_fid(runs: Sequence[Run]) -> Figure:
    """FID against the seconds of training, both axes logarithmic; one panel per architecture."""
    figure, rows = _make_panels(1, len(ARCHS), size=3.8)
    floor = classifier.facts().floors["fid"]
    for arch, axes in zip(ARCHS, next(rows), strict=True):
        for run in runs:
            measured = run.learning.measured
            if run.manifest.arch == arch and measured:
                seconds = [epoch["seconds"] for epoch in measured]
                fid = [epoch["metrics"]["fid"] for epoch in measured]
                label = f"{run.manifest.recipe_name}, version {run.manifest.version}"
                axes.plot(seconds, fid, marker=".", label=label, color=run.learning.color)
        axes.axhline(floor, linestyle=":", color="black", label="real images (the floor)")
        axes.set(title=arch, xscale="log", yscale="log", xlabel="training, seconds", ylabel="FID (less is better)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.0f}")
            axis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=8)
    return figure


def save_svg(figure: Figure) -> bytes:
    """A figure as SVG, its text as outlines. The same figure gives the same bytes.

    One thread at a time may call this: matplotlib takes the salt of its names from a global setting.
    """
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "digits"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _name_verdict(recipe: Mapping[str, Any], d_output: str) -> str:
    """The label of D's output. Records of earlier releases have it as D gives it."""
    if d_output == DOutput.PROBABILITY or (d_output == DOutput.RAW and recipe.get("sigmoid")):
        return "probability of being real"
    return RAW_VERDICTS.get(str(recipe.get("objective")), "output")


def _draw_lines(axes: Axes, run: Learning, labels: Mapping[str, str]) -> None:
    """Draw two series of a run's history by epoch: the first one solid, the second one dashed."""
    epochs = run.list_values("epoch")
    for (name, label), style in zip(labels.items(), ("-", "--"), strict=True):
        marker = "." if len(epochs) < 30 else None
        axes.plot(epochs, run.list_values(name), style, label=label, color=run.color, marker=marker)
    axes.set_title(run.title, fontsize=9)
    axes.set_xlabel("epoch")
    axes.legend(fontsize=8)


def _draw_distance(axes: Axes, run: Learning, *, estimated: bool) -> None:
    """Draw the earth mover's distance of the measured epochs and, on the right, a critic's estimate of it.

    A critic sees pixels in −1…1, where distances are twice as long: its estimate is halved.
    """
    exact = {epoch["epoch"]: epoch["metrics"]["emd"] for epoch in run.measured if "emd" in epoch["metrics"]}
    axes.plot(list(exact), list(exact.values()), ".-", label="exact, of 1,000 images", color=run.color)
    axes.axhline(classifier.facts().floors["emd"], linestyle=":", color="black", label="exact, of real images")
    axes.set(title=run.title, xlabel="epoch", ylabel="earth mover's distance (0…1)")
    lines, top = axes.get_lines(), axes
    if estimated:
        top = right = axes.twinx()
        halves = [(epoch["d_real"] - epoch["d_fake"]) / 2 for epoch in run.history]
        label = "½ (D(real) − D(fake)), the critic's estimate"
        lines += right.plot(run.list_values("epoch"), halves, "--", label=label, color=run.color)
        right.set_ylabel("the critic's estimate")
        for side in (axes, right):  # room for the legend
            low, high = side.get_ylim()
            side.set_ylim(low, high + 0.5 * (high - low))
    axes.title.set_fontsize(9)
    top.legend(handles=lines, fontsize=8, loc="upper right" if estimated else "best")


def _make_panels(rows: int, columns: int, size: float) -> tuple[Figure, Iterator[list[Axes]]]:
    """A figure of ``rows`` × ``columns`` panels, each ``size`` inches high, and its rows of axes."""
    figure = Figure(figsize=(columns * size * 1.2, max(rows, 1) * size), dpi=100, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False) if rows else ()
    return figure, (list(row) for row in grid)
