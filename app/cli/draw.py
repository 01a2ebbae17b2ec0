"""``digits generate`` and ``digits samples``: write pictures to files, without a server."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import ArchOption, ColumnsOption, ScaleOption, SeedOption, VersionOption, fail, fail_option, out
from app.cli.versions import get_version, load_generators, open_engine
from worker.settings import Settings

if TYPE_CHECKING:
    from app.entries import LoadedVersion
    from app.generators import Generators
    from app.orders import LargeOrder

commands = typer.Typer()


@commands.command(
    epilog="Example: `digits generate --arch wgan -n 16 -o wgan.png` or `digits generate --arch wgan --text 31415 -o pi.png`"  # noqa: E501
)
def generate(
    arch: ArchOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png, .webp, .zip or .json file.")],
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, help="How many digits, up to 65,536, or lines of text. Default: 16, or 1 line."),
    ] = None,
    digit: Annotated[int | None, typer.Option(help="Draw only this digit.")] = None,
    digits: Annotated[str | None, typer.Option(help="Draw these digits in this order, as 0,1,1,2.")] = None,
    text: Annotated[str | None, typer.Option(help="Draw a line of these digits, as 31415.")] = None,
    spacing: Annotated[int | None, typer.Option(help="Pixels between the digits of a line. Default: 4.")] = None,
    min_confidence: Annotated[
        float | None, typer.Option(help="Of each digit that was asked for, 0.5 to 0.999. Default: 0.9.")
    ] = None,
    seed: SeedOption = None,
    version: VersionOption = None,
    scale: ScaleOption = 1,
    columns: ColumnsOption = None,
) -> None:
    """Draw digits into a file, without a server."""
    from pydantic import ValidationError

    from app.orders import LargeOrder
    from app.rendering import ImpossiblePictureError
    from models.seed_index import TooFewError

    media_type = _choose_format(output)
    options = {
        "arch": arch, "n": n, "digit": digit, "digits": digits, "text": text, "spacing": spacing,
        "min_confidence": min_confidence, "seed": seed, "scale": scale, "columns": columns,
    }  # fmt: skip
    try:
        order = LargeOrder.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        fail_option(error)
    try:
        generators = load_generators()
        loaded = get_version(generators, arch, version)
        first, data = asyncio.run(_draw(order, media_type, generators, loaded))
        output.write_bytes(data)
    except (ImpossiblePictureError, TooFewError, OSError) as error:
        fail(str(error))
    manifest = loaded.manifest
    out.print(f"{output}: {order.describe()} of {arch} version {manifest.version} from seed {first}", soft_wrap=True)


@commands.command(epilog="Example: `digits samples --arch dcgan -o samples.png`")
def samples(
    arch: ArchOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png or .webp file.")],
    epoch: Annotated[int | None, typer.Option(min=1, help="Show only this epoch, with all its images.")] = None,
    version: VersionOption = None,
    scale: ScaleOption = 1,
) -> None:
    """Show images of the same latents after each epoch of a version's training, one row per epoch."""
    from PIL import Image

    from app.rendering import make_grid
    from models import versions

    if output.suffix.lower() not in (".png", ".webp"):
        fail(f"{output} has an unknown extension: use .png or .webp")
    manifest = get_version(load_generators(), arch, version).manifest
    folder = versions.find_folders(Settings().model_dir)[arch, manifest.version]
    images = versions.read_samples(folder).numpy()
    if epoch is None:
        columns = min(16, images.shape[1])
        shown = images[:, :columns].reshape(-1, 28, 28)
    elif epoch <= len(images):
        shown, columns = images[epoch - 1], 8
    else:
        fail(f"--epoch: {arch} version {manifest.version} has {len(images)} epochs")
    try:
        Image.fromarray(make_grid(shown, columns, scale)).save(output, lossless=True)
    except (ValueError, OSError) as error:
        fail(f"cannot write {output}: {error}")
    out.print(f"{output}: {arch} version {manifest.version}, {'each epoch' if epoch is None else f'epoch {epoch}'}")


async def _draw(
    order: "LargeOrder", media_type: str, generators: "Generators", loaded: "LoadedVersion"
) -> tuple[int, bytes]:
    """Draw as the API does, with an engine of its own: the seed that repeats it, and the file."""
    from app.indexes import Indexes
    from app.rendering import Encoder
    from app.values import find_seeds
    from models import readers

    indexes = Indexes(generators, Settings().model_dir)
    indexes.look()
    index = indexes.find(loaded.manifest)
    with open_engine() as engine:
        first, each = await find_seeds(order, lambda: index, lambda some: engine.submit(loaded, some, readers.read))
        encoder = Encoder(media_type, loaded.manifest, each, order.scale, order.across, order.line, index)
        encoder.require_possible()
        return first, await engine.submit(loaded, each, encoder, apart=encoder.is_large())


def _choose_format(output: Path) -> str:
    from app.rendering import FORMATS

    media_types = {format.extension: media_type for media_type, format in FORMATS.items()}
    media_type = media_types.get(output.suffix.lower())
    if media_type is None:
        fail(f"{output} has an unknown extension: use {', '.join(media_types)}")
    if not output.parent.is_dir():
        fail(f"there is no folder {output.parent}")
    return media_type
