"""``digits generate`` and ``digits samples``: write pictures to files, without a server."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import ArchOption, ColumnsOption, ScaleOption, SeedOption, VersionOption, fail, out
from app.cli.versions import load_generators
from app.settings import ApiSettings
from models import seeds
from worker.settings import Settings

if TYPE_CHECKING:
    from app.generators import LoadedVersion
    from app.rendering import Encoder

commands = typer.Typer()


@commands.command(epilog="Example: `digits generate --arch wgan -n 16 -o wgan.png`")
def generate(
    arch: ArchOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png, .webp, .zip or .json file.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many digits, up to 65,536.")] = 16,
    seed: SeedOption = None,
    version: VersionOption = None,
    scale: ScaleOption = 1,
    columns: ColumnsOption = None,
) -> None:
    """Draw digits into a file, without a server."""
    from app.engine import MAX_IMAGES
    from app.rendering import Encoder, ImpossiblePictureError

    media_type = _choose_format(output)
    if n > MAX_IMAGES:
        fail(f"-n: at most {MAX_IMAGES:,} digits, not {n:,}")
    last = seeds.find_last_first(n)
    if seed is not None and seed > last:
        fail(f"--seed: at most {last}, so that {n} seeds fit")
    loaded = _load_version(arch, version)
    first = seeds.make_fresh(n) if seed is None else seed
    each = range(first, first + n)
    encoder = Encoder(media_type, loaded.manifest, each, scale, columns)
    try:
        encoder.require_possible()
        output.write_bytes(asyncio.run(_draw(loaded, each, encoder)))
    except (ImpossiblePictureError, OSError) as error:
        fail(str(error))
    out.print(f"{output}: {n} digits of {arch} version {loaded.manifest.version} from seed {first}", soft_wrap=True)


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
    manifest = _load_version(arch, version).manifest
    folder = versions.find_folders(Settings().model_dir)[arch, manifest.version]
    images = versions.read_samples(folder).numpy()
    if epoch is None:
        shown, columns = images[:, :16].reshape(-1, 28, 28), 16
    elif epoch <= len(images):
        shown, columns = images[epoch - 1], 8
    else:
        fail(f"--epoch: {arch} version {manifest.version} has {len(images)} epochs")
    try:
        Image.fromarray(make_grid(shown, columns, scale)).save(output, lossless=True)
    except (ValueError, OSError) as error:
        fail(f"cannot write {output}: {error}")
    out.print(f"{output}: {arch} version {manifest.version}, {'each epoch' if epoch is None else f'epoch {epoch}'}")


async def _draw(loaded: "LoadedVersion", each: Sequence[int], encoder: "Encoder") -> bytes:
    """Draw as the API does, with an engine of its own."""
    from app.engine import Engine

    engine = Engine(ApiSettings(api_processes=1).engine_threads, wait_seconds=0.0)
    engine.start()
    try:
        return await engine.submit(loaded, each, encoder, apart=encoder.is_large())
    finally:
        engine.close()


def _load_version(arch: str, version: str | None) -> "LoadedVersion":
    from app.generators import UnknownVersionError

    try:
        return load_generators().get(arch, version)
    except UnknownVersionError as error:
        fail(str(error))


def _choose_format(output: Path) -> str:
    from app.rendering import FORMATS

    media_types = {format.extension: media_type for media_type, format in FORMATS.items()}
    media_type = media_types.get(output.suffix.lower())
    if media_type is None:
        fail(f"{output} has an unknown extension: use {', '.join(media_types)}")
    if not output.parent.is_dir():
        fail(f"there is no folder {output.parent}")
    return media_type
