"""``digits dataset``: a labelled data set, without a server."""

import asyncio
import re
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.cli.console import ArchOption, VersionOption, fail, fail_option, out
from app.cli.progress import add_task, make_bar
from app.cli.versions import get_version, load_generators, open_engine
from models import seeds

if TYPE_CHECKING:
    from app.datasets import LargeDatasetOrder, Part
    from app.entries import LoadedVersion

commands = typer.Typer()

PATIENCE_SECONDS = 3600.0  # for a block of 1,000 digits


@commands.command(epilog="Example: `digits dataset --arch wgan --per-class 6000 -o digits.zip`")
def dataset(
    arch: ArchOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .zip file, or .npz for that format.")],
    per_class: Annotated[int, typer.Option(help="How many of each of the ten classes.")] = 1_000,
    format: Annotated[
        Literal["idx", "png", "npz"],
        typer.Option(help="idx: MNIST's four files; png: folders 0 to 9; npz: arrays as Keras has them."),
    ] = "idx",
    min_confidence: Annotated[float, typer.Option(help="Of each label, 0.5 to 0.999.")] = 0.9,
    seed: Annotated[int, typer.Option(min=0, max=seeds.MAX_SEED, help="Another seed gives another set.")] = 0,
    test_share: Annotated[
        float | None, typer.Option(help="How much of it is test data. Default: a seventh, or 0 for png.")
    ] = None,
    part: Annotated[str, typer.Option(help="Make only this part of the set, as 3/16.")] = "1/1",
    version: VersionOption = None,
) -> None:
    """Make a labelled data set of generated digits. The labels are what two classifiers read.

    The same command gives the same bytes. With --part, several machines make one set together.
    """
    from pydantic import ValidationError

    from app.datasets import LargeDatasetOrder
    from models.seed_index import TooFewError

    try:
        order = LargeDatasetOrder(
            arch=arch, per_class=per_class, format=format, min_confidence=min_confidence, seed=seed,
            test_share=test_share,
        )  # fmt: skip
    except ValidationError as error:
        fail_option(error)
    chosen = _parse_part(part, order)
    if not output.parent.is_dir():
        fail(f"there is no folder {output.parent}")
    if output.exists() and not output.is_file():
        fail(f"{output} is no file: choose another name")
    loaded = get_version(load_generators(), arch, version)
    unfinished = output.with_name(f".{output.name}-{uuid.uuid4().hex}")
    try:
        with make_bar() as bar:
            task = add_task(bar)

            def show(made: int, of: int) -> None:
                bar.update(task, completed=made, total=of, epoch=f"{made:,} of {of:,} digits")

            made = asyncio.run(_write(order, loaded, chosen, unfinished, show))
        unfinished.rename(output)
    except (OSError, TooFewError) as error:
        fail(str(error))
    finally:
        unfinished.unlink(missing_ok=True)
    out.print(f"{output}: {made:,} digits of {arch} version {loaded.manifest.version}", soft_wrap=True)


async def _write(
    order: "LargeDatasetOrder",
    loaded: "LoadedVersion",
    part: "Part",
    path: Path,
    on_progress: Callable[[int, int], None],
) -> int:
    """Write the set, with an engine of its own; how many digits it has."""
    from app.datasets import Exporter, plan_blocks

    total = 10 * sum(block.per_class for block in plan_blocks(order, part))
    with open_engine() as engine, closing(Exporter(engine, PATIENCE_SECONDS)) as exporter, path.open("wb") as file:
        async for piece in exporter.export(order, loaded, part, lambda made: on_progress(made, total)):
            file.write(piece)
    return total


def _parse_part(text: str, order: "LargeDatasetOrder") -> "Part":
    from app.archives import TRAIN
    from app.datasets import Part, plan_blocks

    most = max(1, sum(block.split == TRAIN for block in plan_blocks(order)))
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= count <= most:
        fail(f"--part: should be as 3/16, from 1/n to n/n, with n at most {most:,} for this set, not {text}")
    return Part(number, count)
