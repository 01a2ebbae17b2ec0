"""The comparison of the trained versions, as files: samples, learning curves, metrics.

It shows the longest run of each architecture and recipe.

    digits report --output docs/report
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from app.charts import Run, draw_fid, draw_learning, draw_samples
from models import classifier, manifest, versions
from models.archs import ARCHS

# Published training times on a Colab GPU: recipe "book", 100 epochs.
COLAB_SECONDS = {"vanilla": 22 * 60, "dcgan": 36 * 60 + 17, "wgan": 2 * 3600 + 50 * 60 + 43}

FIGURES: Mapping[str, Callable[[Sequence[Run]], Figure]] = {
    "samples.png": draw_samples,
    "learning.png": draw_learning,
    "fid.png": draw_fid,
}


def find_runs(model_dir: Path) -> list[Run]:
    """The longest run of each architecture and recipe; of equally long ones the newest. Skips damaged versions."""
    longest: dict[tuple[str, str], Run] = {}
    for folder in versions.find_folders(model_dir).values():
        try:
            run = Run(manifest.read_manifest(folder), folder, versions.read_history(folder))
        except manifest.InvalidVersionError:
            continue
        key = (run.manifest.arch, run.manifest.recipe_name)
        if key not in longest or run.manifest.epochs >= longest[key].manifest.epochs:
            longest[key] = run
    order = list(ARCHS)
    return sorted(longest.values(), key=lambda run: (order.index(run.manifest.arch), run.manifest.recipe_name))


def write_report(runs: Sequence[Run], output: Path) -> list[Path]:
    """Write the whole report into the folder ``output``; return the files.

    Raises:
        OSError: the files cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        draw(runs).savefig(output / name)
    table = output / "metrics.md"
    table.write_text(make_table(runs))
    return [*(output / name for name in FIGURES), table]


def make_table(runs: Sequence[Run]) -> str:
    """A Markdown table: the metrics of every run, the floors, and the seconds of training here and on Colab."""
    floors = classifier.facts().floors
    lines = [
        "| arch | recipe | epochs | " + " | ".join(name.replace("_", " ") for name in floors) + " | seconds | Colab |",
        "|---" * (len(floors) + 5) + "|",
    ]
    for run in runs:
        said = run.manifest
        figures = [f"{said.metrics[name]:.3f}" if name in said.metrics else "" for name in floors]
        seconds = COLAB_SECONDS.get(said.arch) if said.recipe_name == "book" else None
        colab = f"{seconds:,} for 100 epochs" if seconds else ""
        facts = [said.arch, said.recipe_name, str(said.epochs), *figures, f"{said.wall_seconds:,.0f}", colab]
        lines.append("| " + " | ".join(facts) + " |")
    lines.append("| real images | | | " + " | ".join(f"{floor:.3f}" for floor in floors.values()) + " | | |")
    return "\n".join(lines) + "\n"
