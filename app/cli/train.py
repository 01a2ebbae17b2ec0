"""``digits train`` and ``digits train-classifier``: training in the foreground.

``digits train`` calls the worker's own trainer. Only this file of ``app`` may therefore import
``worker.trainer`` and ``worker.training``: see the import rules in pyproject.toml.
"""

import logging
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from app.cli.console import ArchOption, SeedOption, err, fail, out
from models import seeds
from worker.jobs import MAX_EPOCHS
from worker.recipes import DEFAULT_RECIPE, RecipeName
from worker.settings import Settings

if TYPE_CHECKING:
    from worker import training

logger = logging.getLogger("digits")

commands = typer.Typer()

_DEFAULT_RECIPE = RecipeName(DEFAULT_RECIPE)


@commands.command(epilog="Example: `digits train --arch dcgan --epochs 5`")
def train(
    arch: ArchOption,
    recipe: Annotated[RecipeName, typer.Option(help="The hyperparameters.")] = _DEFAULT_RECIPE,
    epochs: Annotated[int | None, typer.Option(min=1, max=MAX_EPOCHS, help="Default: the recipe's.")] = None,
    seed: SeedOption = None,
    measure_every: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_EPOCHS, help="Epochs between measurements. Default: measure only at the end."),
    ] = None,
) -> None:
    """Train a generator in the foreground and publish it as a new version.

    Ctrl-C stops after the current step and publishes the finished epochs. A second Ctrl-C quits at
    once and publishes nothing.
    """
    from models import device, metrics, mnist
    from worker.trainer import Trainer
    from worker.training import TrainingError

    settings = Settings()
    stop = _StopOnInterrupt()  # set up early: some of the code below would swallow a KeyboardInterrupt
    try:
        seed = seeds.make_fresh() if seed is None else seed
        trainer = Trainer(settings, arch=arch, recipe=recipe, epochs=epochs, seed=seed)
    except (OSError, device.UnavailableDeviceError, mnist.DatasetError) as error:
        fail(str(error))
    with _make_bar() as bar:
        try:
            trained = trainer.train(on_progress=_Display(bar), should_stop=stop, measure_every=measure_every)
        except TrainingError as error:
            fail(str(error))
    if trained is None:
        fail("stopped before the first epoch was finished: nothing is published", code=130)
    if not trained.history[-1].metrics:
        err.print(f"measuring {metrics.IMAGES:,} images")
    figures = trainer.measure(trained)
    try:
        manifest = trainer.publish(trained, figures)
    except OSError as error:
        fail(f"cannot publish to {settings.model_dir}: {error}")
    folder = settings.model_dir / arch / str(manifest.version)
    out.print(f"published {arch} version {manifest.version} after {manifest.epochs} epochs in {folder}", soft_wrap=True)


@commands.command(epilog="Example: `digits train-classifier -o /tmp/classifier.safetensors`")
def train_classifier(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .safetensors file. Default: replace the one in use.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=100, help="Default: 6, two minutes on two cores.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=seeds.MAX_SEED)] = 0,
) -> None:
    """Train the digit classifier whose features the metrics use.

    Versions that were measured with another classifier then rank as unmeasured: metrics of different
    classifiers cannot be compared.
    """
    import torch

    from models import classifier, metrics, mnist

    output, epochs = output or classifier.CLASSIFIER, epochs or classifier.EPOCHS
    if output.suffix != ".safetensors":
        fail(f"{output} must end in .safetensors")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        fail(f"cannot write to the folder {output.parent}")
    settings = Settings()
    try:
        images, labels = mnist.load(settings.data_dir), mnist.load_labels(settings.data_dir)
        test_images = mnist.load(settings.data_dir, mnist.TEST_IMAGES)
        test_labels = mnist.load_labels(settings.data_dir, mnist.TEST_LABELS)
    except mnist.DatasetError as error:
        fail(str(error))
    began = time.perf_counter()
    with _make_bar() as bar:
        task = bar.add_task("training", total=None, epoch="", losses="", speed="")
        trained = classifier.train(
            images,
            labels,
            epochs=epochs,
            seed=seed,
            on_progress=lambda step, steps: bar.update(task, completed=step, total=steps),
        )
    seconds = time.perf_counter() - began
    facts = classifier.Facts(
        command=f"digits train-classifier --epochs {epochs} --seed {seed}",
        epochs=epochs,
        seed=seed,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        wall_seconds=round(seconds, 1),
        test_accuracy=classifier.accuracy(trained, test_images, test_labels),
        floors=metrics.measure(metrics.sample(images, metrics.IMAGES), metrics.Real.of(test_images, trained)),
    )
    try:
        classifier.save(trained, facts, output)
    except OSError as error:
        fail(f"cannot write {output}: {error}")
    out.print(f"{output}: {facts.test_accuracy:.2%} of the test images in {seconds:.0f} s", soft_wrap=True)


class _Display:
    """Shows the progress of a training: a bar on a terminal, one line per epoch in a log file."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("training", total=None, epoch="", losses="", speed="")

    def __call__(self, progress: "training.Progress") -> None:
        last = progress.last
        if last and last.epoch == progress.epoch and not err.is_terminal:
            logger.info(
                "epoch %d/%d: %.0f images/s, D %.3f, G %.3f, %.0f s to go",
                progress.epoch, progress.epochs, last.images_per_second, last.d_loss, last.g_loss,
                progress.eta_seconds,
            )  # fmt: skip
        self._bar.update(
            self._task,
            total=progress.epochs * progress.steps,
            completed=(progress.epoch - 1) * progress.steps + progress.step,
            epoch=f"epoch {progress.epoch}/{progress.epochs}",
            speed=f"{progress.images_per_second:,.0f} images/s",
            losses=f"D {last.d_loss:.3f}  G {last.g_loss:.3f}" if last else "",
        )


class _StopOnInterrupt:
    """Returns True after the first Ctrl-C or SIGTERM. A second one has its usual effect."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._request)

    def _request(self, number: int, _frame: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        err.print("stopping after this step; repeat to quit at once")

    def __call__(self) -> bool:
        return self.requested


def _make_bar() -> Progress:
    return Progress(
        TextColumn("{task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=err,
        refresh_per_second=2,
        disable=not err.is_terminal,
    )
