"""The comparison of the trained versions, as files: samples, learning curves, metrics.

The table has every version. The figures show the longest and the newest of each architecture and recipe.

    digits report --output docs/report
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from app.charts import Run, draw_fid, draw_learning, draw_samples
from app.comparison import COLAB_SECONDS
from models import classifier, manifest, versions
from models.archs import ARCHS

FIGURES: Mapping[str, Callable[[Sequence[Run]], Figure]] = {
    "samples.png": draw_samples,
    "learning.png": lambda runs: draw_learning([run.learning for run in runs]),
    "fid.png": draw_fid,
}


def find_runs(model_dir: Path) -> list[Run]:
    """The run of every version, by architecture, recipe and number. Skips what cannot be read."""
    runs = []
    for folder in versions.find_folders(model_dir).values():
        with contextlib.suppress(manifest.InvalidVersionError, OSError):
            runs.append(Run(manifest.read_manifest(folder), folder, versions.read_history(folder)))
    order = list(ARCHS)
    return sorted(runs, key=lambda run: (order.index(run.manifest.arch), run.manifest.recipe_name))


def choose_shown(runs: Sequence[Run]) -> list[Run]:
    """The longest and the newest run of each architecture and recipe; of equally long ones, the newest."""
    shown: set[int] = set()
    for key in {(run.manifest.arch, run.manifest.recipe_name) for run in runs}:
        alike = [run for run in runs if (run.manifest.arch, run.manifest.recipe_name) == key]
        longest = max(alike, key=lambda run: (run.manifest.epochs, run.manifest.created_at))
        newest = max(alike, key=lambda run: run.manifest.created_at)
        shown |= {id(longest), id(newest)}
    return [run for run in runs if id(run) in shown]


def write_report(runs: Sequence[Run], output: Path) -> list[Path]:
    """Write the whole report into the folder ``output``; return the files.

    Raises:
        OSError: the files cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    shown = choose_shown(runs)
    for name, draw in FIGURES.items():
        draw(shown).savefig(output / name)
    table = output / "metrics.md"
    table.write_text(make_table(runs))
    return [*(output / name for name in FIGURES), table]


def make_table(runs: Sequence[Run]) -> str:
    """Two Markdown tables: metrics and training time of every run; training times of book beside the published ones."""
    floors = classifier.facts().floors
    names = [name.replace("_", " ") for name in floors]
    rows = [["arch", "version", "recipe", "epochs", *names, "seconds"], ["---"] * (len(floors) + 5)]
    for run in runs:
        said = run.manifest
        figures = [f"{said.metrics[name]:.3f}" if name in said.metrics else "" for name in floors]
        facts = [said.arch, str(said.version), said.recipe_name, str(said.epochs)]
        rows.append([*facts, *figures, f"{said.wall_seconds:,.0f}"])
    rows.append(["real images", "", "", "", *(f"{floor:.3f}" for floor in floors.values()), ""])
    times = [["book", "version", "epochs", "device", "seconds", "100 epochs on a Colab GPU, as published"], ["---"] * 6]
    for run in runs:
        said = run.manifest
        if said.recipe_name == "book":
            facts = [said.arch, str(said.version), str(said.epochs), said.device, f"{said.wall_seconds:,.0f}"]
            times.append([*facts, f"{COLAB_SECONDS[said.arch]:,}"])
    return f"{_format_table(rows)}\n{_format_table(times)}"


def _format_table(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
