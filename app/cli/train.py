"""``digits train`` and ``digits train-classifier``: training in the foreground.

``digits train`` calls the worker's own trainer. Only this file of ``app`` may therefore import
``worker.trainer`` and ``worker.training``: see the import rules in pyproject.toml.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import ArchOption, SeedOption, err, fail, out
from app.cli.progress import Display, add_task, make_bar
from models import seeds
from worker.jobs import MAX_EPOCHS
from worker.linux import list_end_signals
from worker.recipes import DEFAULT_RECIPE, NoRecipeError, RecipeName
from worker.settings import Settings

if TYPE_CHECKING:
    from worker import training

commands = typer.Typer()

_DEFAULT_RECIPE = RecipeName(DEFAULT_RECIPE)


@commands.command(epilog="Example: `digits train --arch dcgan --epochs 5`")
def train(
    arch: ArchOption,
    recipe: Annotated[RecipeName, typer.Option(help="The hyperparameters; logistic: of wgan only.")] = _DEFAULT_RECIPE,
    epochs: Annotated[int | None, typer.Option(min=1, max=MAX_EPOCHS, help="Default: the recipe's.")] = None,
    seed: SeedOption = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with data in MNIST's format. Default: DIGITS_DATA_DIR, or MNIST."),
    ] = None,
    measure_every: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_EPOCHS, help="Epochs between measurements. Default: measure only at the end."),
    ] = None,
) -> None:
    """Train a generator in the foreground and publish it as a new version.

    Ctrl-C, or the end of its terminal, stops after the current step and publishes the finished epochs. A
    second Ctrl-C quits at once and publishes nothing.
    """
    from models import device, metrics, mnist
    from worker.trainer import Trainer
    from worker.training import TrainingError

    settings = Settings()
    settings = settings.model_copy(update={"data_dir": data or settings.data_dir})
    stop = _StopOnSignal()  # set up early: some of the code below would swallow a KeyboardInterrupt
    try:
        seed = seeds.make_fresh() if seed is None else seed
        trainer = Trainer(settings, arch=arch, recipe=recipe, epochs=epochs, seed=seed)
    except (OSError, NoRecipeError, device.UnavailableDeviceError, mnist.DatasetError) as error:
        fail(str(error))
    with make_bar() as bar:
        try:
            trained = trainer.train(on_progress=_show(Display(bar)), should_stop=stop, measure_every=measure_every)
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
    second: Annotated[bool, typer.Option("--second", help="Train the second reader of digits instead.")] = False,
) -> None:
    """Train the digit classifier whose features the metrics use.

    Versions that were measured with another classifier then rank as unmeasured: metrics of different
    classifiers cannot be compared.
    """
    import torch

    from models import classifier, metrics, mnist, readers

    output = output or (readers.SECOND if second else classifier.CLASSIFIER)
    epochs = epochs or (readers.EPOCHS if second else classifier.EPOCHS)
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
    with make_bar() as bar:
        task = add_task(bar)
        train = readers.train_second if second else partial(classifier.train, classifier.Classifier)
        trained = train(
            images,
            labels,
            epochs=epochs,
            seed=seed,
            on_progress=lambda step, steps: bar.update(task, completed=step, total=steps),
        )
    seconds = time.perf_counter() - began
    floors = {}
    if isinstance(trained, classifier.Classifier):  # the second reader has no features for metrics
        floors = metrics.measure(metrics.sample(images, metrics.IMAGES), metrics.Real.of(test_images, trained))
    facts = classifier.Facts(
        command=f"digits train-classifier --epochs {epochs} --seed {seed}{' --second' if second else ''}",
        epochs=epochs,
        seed=seed,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        wall_seconds=round(seconds, 1),
        test_accuracy=classifier.accuracy(trained, test_images, test_labels),
        floors=floors,
    )
    try:
        classifier.save(trained.half() if second else trained, facts, output)  # half the size, read as well
    except OSError as error:
        fail(f"cannot write {output}: {error}")
    out.print(f"{output}: {facts.test_accuracy:.2%} of the test images in {seconds:.0f} s", soft_wrap=True)


def _show(display: Display) -> "Callable[[training.Progress], None]":
    """A callback that shows the progress of a training here."""

    def show(progress: "training.Progress") -> None:
        last = progress.last
        display.show(
            epoch=progress.epoch,
            epochs=progress.epochs,
            step=progress.step,
            steps=progress.steps,
            images_per_second=progress.images_per_second,
            eta_seconds=progress.eta_seconds,
            finished=last.epoch if last else 0,
            d_loss=last.d_loss if last else None,
            g_loss=last.g_loss if last else None,
        )

    return show


class _StopOnSignal:
    """Returns True after the first Ctrl-C, SIGTERM or SIGHUP. A second one has its usual effect."""

    def __init__(self) -> None:
        self.requested = False
        self._terminals = [stream.fileno() for stream in (sys.stdout, sys.stderr) if stream.isatty()]
        self._usual = {number: signal.signal(number, self._request) for number in list_end_signals()}

    def _request(self, number: int, _frame: object) -> None:
        self.requested = True
        for one, handler in self._usual.items():
            signal.signal(one, handler)
        if number == signal.SIGHUP:
            self._do_without_terminal()
        # No console: the code that the signal has interrupted may hold the lock that a console waits for.
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), b"\nstopping after this step; repeat to quit at once\n")

    def __call__(self) -> bool:
        return self.requested

    def _do_without_terminal(self) -> None:
        """It has gone: whatever is written to it fails."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
