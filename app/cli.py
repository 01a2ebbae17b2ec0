"""``digits``: the command line. ``digits --help`` lists the commands, each has examples.

The one module of this room that may reach past the worker's contract, because ``digits train``
runs the training loop in the foreground. Heavy imports stand inside the commands that need them,
so that ``--help`` is quick and the worker's parent process stays free of torch.
"""

import logging
import mimetypes
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from app.settings import MAX_PROCESSES, ApiSettings
from models import seeds
from worker.jobs import MAX_EPOCHS
from worker.recipes import DEFAULT_RECIPE, RECIPES, ArchName, RecipeName
from worker.settings import LOG_FORMAT, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.generators import Generator, Generators
    from app.rendering import Picture
    from worker import training


logger = logging.getLogger("digits")

cli = typer.Typer(
    name="digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Console()
err = Console(stderr=True)

# Of the metrics, those that `digits models` has room for.
METRICS = {
    "FID": "fid",
    "precision": "precision",
    "recall": "recall",
    "balance": "class_balance",
    "confidence": "confidence",
    "EMD": "emd",
}

_DEFAULT_RECIPE = RecipeName(DEFAULT_RECIPE)

ArchOption = Annotated[ArchName, typer.Option(help="The architecture.")]
VersionOption = Annotated[str | None, typer.Option(help="A number, or latest. Default: the best.")]
ScaleOption = Annotated[int, typer.Option(min=1, max=8, help="Enlargement.")]
ColumnsOption = Annotated[int | None, typer.Option(min=1, help="Of the grid. Default: near-square.")]
SeedOption = Annotated[int | None, typer.Option(min=0, max=seeds.MAX_SEED, help="Default: a fresh one.")]


@cli.callback()
def digits() -> None:
    """Handwritten digits on demand: serve generators, train them, draw from them."""


@cli.command(epilog="Example: `DIGITS_PORT=9000 digits up`")
def up() -> None:
    """Run everything on this machine: Valkey, a worker and the API on port 8000. Ctrl-C ends it.

    With DIGITS_REDIS_URL set, no Valkey is started.
    """
    from app import up, valkey

    try:
        up.up(ApiSettings())
    except (up.UpError, valkey.ValkeyError, OSError) as error:
        _fail(str(error))


@cli.command(epilog="Example: `digits serve --host 0.0.0.0 --port 9000 --workers 4`")
def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen. Default: DIGITS_HOST, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: DIGITS_PORT, or 8000.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=MAX_PROCESSES, help="Processes. Default: DIGITS_WORKERS, or one a core.")
    ] = None,
) -> None:
    """Run the API alone. `/generate` needs nothing else; `/train` needs DIGITS_REDIS_URL and a worker."""
    from app import serving

    told = {"host": host, "port": port, "workers": workers}
    settings = ApiSettings().model_copy(update={name: value for name, value in told.items() if value is not None})
    try:
        serving.serve(settings)
    except ValueError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")


@cli.command(epilog="Example: `DIGITS_REDIS_URL=redis://gpu-host:6379/0 digits worker`")
def worker() -> None:
    """Run a worker: one training job at a time, from the queue at DIGITS_REDIS_URL."""
    from worker import queue

    settings = Settings()
    if settings.redis_url is None:
        _fail("the queue is not named: set DIGITS_REDIS_URL, or run everything at once with `digits up`")
    queue.serve(settings.redis_url.get_secret_value())


@cli.command(epilog="Example: `digits train --arch dcgan --epochs 5`")
def train(
    arch: ArchOption,
    recipe: Annotated[RecipeName, typer.Option(help="The hyperparameters.")] = _DEFAULT_RECIPE,
    epochs: Annotated[int | None, typer.Option(min=1, max=MAX_EPOCHS, help="Default: the recipe's.")] = None,
    seed: SeedOption = None,
    measure_every: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_EPOCHS, help="Take the metrics every so many epochs, not only at the end."),
    ] = None,
) -> None:
    """Train a generator here and now, and publish it as a new version.

    Ctrl-C stops after the step under way: the epochs that are finished are published, a second
    Ctrl-C leaves at once and publishes nothing.
    """
    from models import checkpoint, device, metrics, mnist
    from worker import run, training

    settings = Settings()
    chosen = RECIPES[recipe][arch]
    chosen = replace(chosen, epochs=epochs or chosen.epochs)
    seed = seeds.fresh() if seed is None else seed
    stop = _StopOnInterrupt()  # from here on: some of what follows would swallow a KeyboardInterrupt
    try:
        checkpoint.require_writable(settings.model_dir, arch)
        where = device.resolve(settings.device)
        images = mnist.load(settings.data_dir)
        measure = run.measuring(chosen, settings.data_dir)
    except (OSError, ValueError, mnist.DatasetError) as error:
        _fail(str(error))
    with _training_bar() as bar:
        task = bar.add_task("training", total=None, epoch="", losses="", speed="")

        def show(progress: "training.Progress") -> None:
            last = progress.last
            if last and last.epoch == progress.epoch and not err.is_terminal:  # a log file gets a line an epoch
                logger.info(
                    "epoch %d/%d: %.0f images/s, D %.3f, G %.3f, %.0f s to go",
                    progress.epoch, progress.epochs, last.images_per_second, last.d_loss, last.g_loss,
                    progress.eta_seconds,
                )  # fmt: skip
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
                recipe=chosen,
                images=images,
                seed=seed,
                device=where,
                on_progress=show,
                should_stop=stop,
                measure=measure,
                measure_every=measure_every,
            )
        except training.TrainingError as error:
            _fail(str(error))
    if trained is None:
        _fail("stopped before the first epoch was finished: nothing is published", code=130)
    if not trained.history[-1].metrics:
        err.print(f"measuring {metrics.IMAGES:,} images")
    figures = run.final_metrics(trained, chosen, measure)
    try:
        manifest = run.publish(trained, chosen, seed=seed, where=where, model_dir=settings.model_dir, metrics=figures)
    except OSError as error:
        _fail(f"cannot publish to {settings.model_dir}: {error}")
    folder = settings.model_dir / arch / str(manifest.version)
    out.print(f"published {arch} version {manifest.version} after {manifest.epochs} epochs in {folder}", soft_wrap=True)


@cli.command(epilog="Example: `digits train-classifier -o /tmp/classifier.safetensors`")
def train_classifier(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .safetensors file. Default: the one in use.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=100, help="Default: 6, two minutes on two cores.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=seeds.MAX_SEED)] = 0,
) -> None:
    """Train the digit classifier in whose features generators are measured.

    Versions that were measured with another one lose their place: their metrics cannot be compared.
    """
    import torch

    from models import classifier, metrics, mnist

    output, epochs = output or classifier.CLASSIFIER, epochs or classifier.EPOCHS
    if output.suffix != ".safetensors":
        _fail(f"{output} is to end in .safetensors")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        _fail(f"cannot write to the folder {output.parent}")
    settings = Settings()
    try:
        images, labels = mnist.load(settings.data_dir), mnist.load_labels(settings.data_dir)
        test_images = mnist.load(settings.data_dir, mnist.TEST_IMAGES)
        test_labels = mnist.load_labels(settings.data_dir, mnist.TEST_LABELS)
    except mnist.DatasetError as error:
        _fail(str(error))
    began = time.perf_counter()
    with _training_bar() as bar:
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
        _fail(f"cannot write {output}: {error}")
    out.print(f"{output}: {facts.test_accuracy:.2%} of the test images in {seconds:.0f} s", soft_wrap=True)


@cli.command(epilog="Example: `digits generate --arch wgan -n 16 -o wgan.png`")
def generate(
    arch: ArchOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png, .webp, .zip or .json file.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many digits.")] = 16,
    seed: SeedOption = None,
    version: VersionOption = None,
    scale: ScaleOption = 1,
    columns: ColumnsOption = None,
) -> None:
    """Draw digits into a file, without a server."""
    from app.rendering import ImpossiblePictureError, Picture

    render = _renderer(output)
    generator = _loaded(arch, version)
    seed = seeds.fresh() if seed is None else seed
    picture = Picture(
        generator.draw(seed, n).numpy(), arch, generator.manifest.version, seed, generator.sha256, scale, columns
    )
    try:
        output.write_bytes(render(picture))
    except (ImpossiblePictureError, OSError) as error:
        _fail(str(error))
    out.print(f"{output}: {n} digits of {arch} version {generator.manifest.version} from seed {seed}", soft_wrap=True)


@cli.command(epilog="Example: `digits samples --arch dcgan -o samples.png`")
def samples(
    arch: ArchOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png or .webp file.")],
    epoch: Annotated[int | None, typer.Option(min=1, help="All 64 images of one epoch.")] = None,
    version: VersionOption = None,
    scale: ScaleOption = 1,
) -> None:
    """Show what a version drew from the same latents after each epoch of its training, a row each."""
    from PIL import Image

    from app.rendering import grid
    from models import checkpoint

    if output.suffix.lower() not in (".png", ".webp"):
        _fail(f"{output} names no format: use .png or .webp")
    generator = _loaded(arch, version)
    manifest = generator.manifest
    images = checkpoint.read_samples(checkpoint.folders(Settings().model_dir)[arch, manifest.version]).numpy()
    if epoch is None:
        shown, columns = images[:, :16].reshape(-1, 28, 28), 16
    elif epoch <= len(images):
        shown, columns = images[epoch - 1], 8
    else:
        _fail(f"--epoch: {arch} version {manifest.version} has {len(images)} epochs")
    try:
        Image.fromarray(grid(shown, columns, scale)).save(output, lossless=True)
    except (ValueError, OSError) as error:
        _fail(f"cannot write {output}: {error}")
    out.print(f"{output}: {arch} version {manifest.version}, {'each epoch' if epoch is None else f'epoch {epoch}'}")


@cli.command(epilog="Example: `DIGITS_MODEL_DIR=/srv/models digits models`")
def models() -> None:
    """List the versions there are, and which one answers by default (★)."""
    from rich.table import Column, Table

    from models import classifier

    generators = _generators()
    right = [Column(title, justify="right") for title in METRICS]
    table = Table("arch", "version", "recipe", "epochs", *right, "made", "source", "state")
    for entry in generators.entries:
        source = "shipped" if entry.shipped else "trained"
        if entry.generator is None:
            blank = [""] * (len(METRICS) + 3)
            table.add_row(entry.arch, str(entry.version), *blank, source, "rejected")
            continue
        manifest = entry.generator.manifest
        star = " ★" if generators.get(entry.arch) is entry.generator else ""
        made = f"{manifest.created_at:%Y-%m-%d %H:%M}"
        recipe = str(manifest.recipe.get("name", ""))
        table.add_row(
            entry.arch,
            f"{entry.version}{star}",
            recipe,
            str(manifest.epochs),
            *_figures(manifest.metrics),
            made,
            source,
            "loaded",
        )
    table.add_section()
    table.add_row("real images", "", "", "", *_figures(classifier.facts().floors), "", "", "")
    out.print(table)
    for entry in generators.entries:  # below: the table has no room for reasons
        if entry.problem:
            out.print(f"{entry.arch} version {entry.version} is rejected: {entry.problem}", soft_wrap=True)


@cli.command(epilog="Example: `digits report --output docs/report`")
def report(
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder.")] = Path("var/report"),
) -> None:
    """Compare the trained versions: their pictures, learning curves, FID against time, all metrics.

    Train with --measure-every to have a curve of FID.
    """
    try:
        from app import report as comparison
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is missing: pip install 'digits[report]'")
    try:
        written = comparison.write(comparison.runs(Settings().model_dir), output)
    except OSError as error:
        _fail(f"cannot write the report: {error}")
    for path in written:
        out.print(str(path), soft_wrap=True)


def main() -> None:
    """The entry point of ``digits``."""
    # torch's OpenMP threads spin while they wait for each other, by default so long that a second
    # busy process on the same cores makes a training step 40 to 100 times slower. This bound costs
    # nothing where they are alone: see docs/measurements.md. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    try:
        cli()
    except ValidationError as error:  # of the settings: the commands' own options are checked by typer
        for item in error.errors(include_input=False):
            err.print(f"[red]error:[/red] DIGITS_{str(item['loc'][0]).upper()}: {item['msg']}", soft_wrap=True)
        raise SystemExit(2) from None


def _generators() -> "Generators":
    from app.generators import Generators
    from models import device

    settings = Settings()
    logging.disable(logging.INFO)  # the answer says it all
    try:
        found = Generators(settings.model_dir, device.resolve(settings.device))
    except ValueError as error:
        _fail(str(error))
    found.refresh()
    return found


def _loaded(arch: str, version: str | None) -> "Generator":
    from app.errors import Unknown

    try:
        return _generators().get(arch, version)
    except Unknown as error:
        _fail(error.detail)


def _figures(metrics: "Mapping[str, float]") -> list[str]:
    return [f"{metrics[name]:.3g}" if name in metrics else "" for name in METRICS.values()]


def _renderer(output: Path) -> "Callable[[Picture], bytes]":
    from app.rendering import FORMATS

    media_type = mimetypes.guess_type(output.name)[0]
    if media_type not in FORMATS:
        _fail(f"{output} names no format: use .png, .webp, .zip or .json")
    if not output.parent.is_dir():
        _fail(f"there is no folder {output.parent}")
    return FORMATS[media_type]


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
        disable=not err.is_terminal,
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
