"""``digits``: the command line. ``digits --help`` lists the commands, each has examples.

The one module of this room that may reach past the worker's contract, because ``digits train``
runs the training loop in the foreground. Heavy imports stand inside the commands that need them,
so that ``--help`` is quick and the worker's parent process stays free of torch.
"""

import logging
import signal
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from models import seeds
from worker.jobs import MAX_EPOCHS
from worker.recipes import DEFAULT_RECIPE, RECIPES
from worker.settings import Settings

if TYPE_CHECKING:
    from worker import training

Arch = StrEnum("Arch", list(RECIPES[DEFAULT_RECIPE]))  # type: ignore[misc]
RecipeName = StrEnum("RecipeName", list(RECIPES))  # type: ignore[misc]

cli = typer.Typer(
    name="digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Console()
err = Console(stderr=True)

_DEFAULT_RECIPE = RecipeName(DEFAULT_RECIPE)

ArchOption = Annotated[Arch, typer.Option(help="The architecture.")]
SeedOption = Annotated[int | None, typer.Option(min=0, max=seeds.MAX_SEED, help="Default: a fresh one.")]


@cli.callback()
def digits() -> None:
    """Handwritten digits on demand: serve generators, train them, draw from them."""


@cli.command(epilog="Example: `digits train --arch dcgan --epochs 5`")
def train(
    arch: ArchOption,
    recipe: Annotated[RecipeName, typer.Option(help="The hyperparameters.")] = _DEFAULT_RECIPE,
    epochs: Annotated[int | None, typer.Option(min=1, max=MAX_EPOCHS, help="Default: the recipe's.")] = None,
    seed: SeedOption = None,
) -> None:
    """Train a generator here and now, and publish it as a new version.

    Ctrl-C stops after the step under way: the epochs that are finished are published, a second
    Ctrl-C leaves at once and publishes nothing.
    """
    from models import device, mnist
    from worker import run, training

    settings = Settings()
    chosen = RECIPES[recipe][arch]
    chosen = replace(chosen, epochs=epochs or chosen.epochs)
    seed = seeds.fresh() if seed is None else seed
    try:
        where = device.resolve(settings.device)
        images = mnist.load(settings.data_dir)
    except (ValueError, mnist.DatasetError) as error:
        _fail(str(error))
    stop = _StopOnInterrupt()
    with _training_bar() as bar:
        task = bar.add_task("training", total=None, epoch="", losses="", speed="")

        def show(progress: "training.Progress") -> None:
            last = progress.last
            bar.update(
                task,
                total=progress.epochs * progress.steps,
                completed=(progress.epoch - 1) * progress.steps + progress.step,
                epoch=f"epoch {progress.epoch}/{progress.epochs}",
                speed=f"{progress.images_per_second:,.0f} images/s",
                losses=f"D {last.d_loss:.3f}  G {last.g_loss:.3f}" if last else "",
            )

        try:
            trained = training.train(
                recipe=chosen, images=images, seed=seed, device=where, on_progress=show, should_stop=stop
            )
        except training.TrainingError as error:
            _fail(str(error))
    if trained is None:
        _fail("stopped before the first epoch was finished: nothing is published", code=130)
    try:
        manifest = run.publish(trained, chosen, seed=seed, where=where, model_dir=settings.model_dir)
    except OSError as error:
        _fail(f"cannot publish to {settings.model_dir}: {error}")
    folder = settings.model_dir / arch / str(manifest.version)
    out.print(f"published {arch} version {manifest.version} after {manifest.epochs} epochs in {folder}", soft_wrap=True)


def main() -> None:
    """The entry point of ``digits``."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    cli()


def _fail(message: str, code: int = 1) -> NoReturn:
    err.print(f"[red]error:[/red] {message}", soft_wrap=True)
    raise typer.Exit(code)


def _training_bar() -> Progress:
    return Progress(
        TextColumn("{task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=err,
        refresh_per_second=2,
    )


class _StopOnInterrupt:
    """True once Ctrl-C or SIGTERM came; the next one takes its usual course."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, _frame: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        err.print("stopping after this step; again to leave at once")

    def __call__(self) -> bool:
        return self.requested


if __name__ == "__main__":
    main()
