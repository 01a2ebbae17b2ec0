"""``digits pin``, ``delete``, ``hide``, ``show`` and ``gc``: which version answers, and which ones stay.

They work on the model directory. A service that runs on it follows within a second.
"""

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

from app.cli.console import fail, out
from app.cli.versions import load_generators
from worker.recipes import ArchName

commands = typer.Typer()

ArchArgument = Annotated[ArchName, typer.Argument(help="The architecture.")]
VersionArgument = Annotated[int, typer.Argument(min=1, help="The number of the version.")]


@commands.command(epilog="Example: `digits pin wgan 3`, and `digits pin wgan --none` to let the best one answer again")
def pin(
    arch: ArchArgument,
    version: Annotated[int | None, typer.Argument(min=1, help="The number of the version.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Take the pin away.")] = False,
) -> None:
    """Let one version answer whenever a request names none, whatever is better."""
    from app import upkeep

    if (version is None) is not none:
        fail("name a version, or --none", code=2)
    with _explaining():
        upkeep.pin(load_generators(), arch, version)
    out.print(f"version {version} of {arch} is pinned" if version else f"the best version of {arch} answers again")


@commands.command(epilog="Example: `digits delete wgan 4`")
def delete(
    arch: ArchArgument,
    version: VersionArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a version from the model directory, for ever. Its number is never given again."""
    from app import upkeep
    from app.generators import Source, UnknownVersionError

    generators = load_generators()
    with contextlib.suppress(UnknownVersionError):  # which is told below
        entry = generators.get_entry(arch, str(version))
        if entry.source is not Source.SHIPPED and not yes:
            typer.confirm(f"Remove version {version} of {arch} ({entry.folder}) for ever?", abort=True, err=True)
    with _explaining():
        upkeep.remove(generators, arch, version)
    out.print(f"version {version} of {arch} is removed")


@commands.command(epilog="Example: `digits hide wgan 1`")
def hide(arch: ArchArgument, version: VersionArgument) -> None:
    """Leave out a version that comes with the code. `digits show` brings it back."""
    from app import upkeep

    with _explaining():
        upkeep.hide(load_generators(), arch, version)
    out.print(f"version {version} of {arch} is hidden")


@commands.command(epilog="Example: `digits show wgan 1`")
def show(arch: ArchArgument, version: VersionArgument) -> None:
    """Bring back a version that was hidden."""
    from app import upkeep

    with _explaining():
        upkeep.show(load_generators(), arch, version)
    out.print(f"version {version} of {arch} is shown")


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """End the command with the reason why something is not possible."""
    from app.generators import UnknownVersionError
    from app.upkeep import NeededError, ShippedError, UnwritableError

    try:
        yield
    except ShippedError as error:
        fail(f"{error}: see `digits hide`")
    except (UnknownVersionError, NeededError, UnwritableError) as error:
        fail(str(error))
