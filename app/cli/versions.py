"""``digits models`` and ``digits report``: list the versions, and compare them."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import fail, out, write_json
from app.settings import ApiSettings
from worker.settings import Settings

if TYPE_CHECKING:
    from app.engine import Engine
    from app.entries import LoadedVersion
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
WIDE, NARROW_METRICS = 140, 1  # characters, columns


@commands.command(epilog="Example: `DIGITS_MODEL_DIR=/srv/models digits models`")
def models(
    as_json: Annotated[bool, typer.Option("--json", help="As the API gives them.")] = False,
) -> None:
    """List the versions, in one line each. ★ marks the default version of each architecture."""
    from rich.table import Column, Table

    from models import choices, classifier

    generators = load_generators()
    entries = generators.entries
    if as_json:
        from app.routes.models import describe

        write_json([describe(entry).model_dump(mode="json") for entry in entries])
        return
    if not out.is_terminal and not os.environ.get("COLUMNS"):  # a file or a pipe has no width
        out.width = WIDE
    wide = out.width >= WIDE
    shown = dict(list(METRICS.items())[: None if wide else NARROW_METRICS])
    numbers = (Column(title, justify="right") for title in ("epochs", *shown))
    table = Table("arch", "version", "recipe", *numbers, "made", "source", "state", box=None, pad_edge=False)
    for entry in entries:
        facts = [""] * (3 + len(shown))
        if manifest := entry.manifest:
            made = f"{manifest.created_at:%Y-%m-%d %H:%M}"
            facts = [manifest.recipe_name, str(manifest.epochs), *_format_metrics(manifest.metrics, shown), made]
        star = (" ★" if entry.is_default else "") + (" pinned" if entry.is_pinned else "")
        table.add_row(entry.arch, f"{entry.version}{star}", *facts, entry.source, entry.state)
    table.add_row("real", "", "", "", *_format_metrics(classifier.facts().floors, shown))
    out.print(table)
    if not wide:
        out.print(f"Widen the terminal to {WIDE} characters for all metrics.")
    for entry in entries:  # below: the table has no room for reasons
        if entry.problem:
            out.print(f"{entry.arch} version {entry.version} is rejected: {entry.problem}", soft_wrap=True)
    for arch, pin in generators.pins.items():
        if pin.problem:
            out.print(pin.problem, soft_wrap=True)
        if hidden := choices.list_hidden(generators.model_dir, arch):
            listed = ", ".join(map(str, hidden))
            out.print(f"hidden of {arch}: {listed}; `digits show {arch} {hidden[0]}` shows it again")


@commands.command(epilog="Example: `digits report --output docs/report`")
def report(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to write to. Default: report in DIGITS_STATE_DIR.")
    ] = None,
) -> None:
    """Compare the versions: samples, learning curves, earth mover's distance, FID against time, all metrics.

    The table has every version, the figures the longest and the newest of each architecture and recipe. A
    version has an FID curve only if it was trained with --measure-every.
    """
    from app import report

    settings = Settings()
    runs = report.find_runs(settings.model_dir)
    try:
        written = report.write_report(runs, output or settings.state_dir / "report")
    except OSError as error:
        fail(f"cannot write the report: {error}")
    left = len(runs) - len(report.choose_shown(runs))
    out.print(f"{len(runs)} versions are compared{f'; {left} of them only in metrics.md' if left else ''}")
    for path in written:
        out.print(str(path), soft_wrap=True)


def load_generators() -> "Generators":
    """Load all versions."""
    from app.generators import Generators
    from models import device

    settings = Settings()
    logging.getLogger().setLevel(logging.WARNING)  # the command's own output is enough
    try:
        found = Generators(settings.model_dir, device.resolve(settings.device))
    except device.UnavailableDeviceError as error:
        fail(str(error))
    found.refresh()
    return found


def get_version(generators: "Generators", arch: str, version: str | None) -> "LoadedVersion":
    """A version that can draw."""
    from app.entries import UnknownVersionError

    try:
        return generators.get(arch, version)
    except UnknownVersionError as error:
        fail(str(error))


@contextlib.contextmanager
def open_engine() -> "Iterator[Engine]":
    """An engine on all cores, for the event loop that is running."""
    from app.engine import Engine

    engine = Engine(ApiSettings(api_processes=1).engine_threads, wait_seconds=0.0)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


def _format_metrics(metrics: Mapping[str, float], shown: Mapping[str, str]) -> list[str]:
    return [f"{metrics[name]:.3g}" if name in metrics else "" for name in shown.values()]
