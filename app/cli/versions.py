"""``digits models`` and ``digits report``: list the versions, and compare them."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import fail, out
from worker.settings import Settings

if TYPE_CHECKING:
    from app.generators import Generators

commands = typer.Typer()

# The metrics that `digits models` shows: column → name in the manifest. A narrow terminal has room for the first ones.
METRICS = {
    "FID": "fid",
    "precision": "precision",
    "recall": "recall",
    "balance": "class_balance",
    "confidence": "confidence",
    "EMD": "emd",
}
WIDE, NARROW_METRICS = 140, 2  # characters, columns


@commands.command(epilog="Example: `DIGITS_MODEL_DIR=/srv/models digits models`")
def models() -> None:
    """List the versions. ★ marks the default version of each architecture."""
    from rich.table import Column, Table

    from models import classifier

    entries = load_generators().entries
    wide = out.width >= WIDE
    shown = dict(list(METRICS.items())[: None if wide else NARROW_METRICS])
    table = Table("arch", "version", "recipe", "epochs", *(Column(title, justify="right") for title in shown))
    for title in ("made", "source", "state") if wide else ("source", "state"):
        table.add_column(title)
    for entry in entries:
        facts = [""] * (2 + len(shown) + wide)
        if entry.loaded:
            manifest = entry.loaded.manifest
            made = [f"{manifest.created_at:%Y-%m-%d %H:%M}"] if wide else []
            facts = [manifest.recipe_name, str(manifest.epochs), *_format_metrics(manifest.metrics, shown), *made]
        star = " ★" if entry.is_default else ""
        table.add_row(entry.arch, f"{entry.version}{star}", *facts, entry.source, entry.state)
    table.add_section()
    table.add_row("real images", "", "", "", *_format_metrics(classifier.facts().floors, shown))
    out.print(table)
    if not wide:
        out.print(f"Widen the terminal to {WIDE} characters for all metrics.")
    for entry in entries:  # below: the table has no room for reasons
        if entry.problem:
            out.print(f"{entry.arch} version {entry.version} is rejected: {entry.problem}", soft_wrap=True)


@commands.command(epilog="Example: `digits report --output docs/report`")
def report(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write to. Default: report in DIGITS_STATE_DIR.")
    ] = None,
) -> None:
    """Compare the trained versions: samples, learning curves, FID against time, all metrics.

    A version has an FID curve only if it was trained with --measure-every.
    """
    from app import report

    settings = Settings()
    try:
        written = report.write_report(report.find_runs(settings.model_dir), output or settings.state_dir / "report")
    except OSError as error:
        fail(f"cannot write the report: {error}")
    for path in written:
        out.print(str(path), soft_wrap=True)


def load_generators() -> "Generators":
    """Load all versions."""
    from app.generators import Generators
    from models import device

    settings = Settings()
    logging.disable(logging.INFO)  # the command's own output is enough
    try:
        found = Generators(settings.model_dir, device.resolve(settings.device))
    except device.UnavailableDeviceError as error:
        fail(str(error))
    found.refresh()
    return found


def _format_metrics(metrics: Mapping[str, float], shown: Mapping[str, str]) -> list[str]:
    return [f"{metrics[name]:.3g}" if name in metrics else "" for name in shown.values()]
