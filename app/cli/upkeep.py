"""``digits pin``, ``delete``, ``hide``, ``show`` and ``gc``: which version answers, and which ones stay.

They work on the model directory. A service that runs on it follows within a second.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from app.audit import audit_command
from app.cli.console import err, fail, out
from app.cli.versions import load_generators
from worker.recipes import ArchName
from worker.settings import Settings

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
    audit_command("pin", arch=arch, version=version or "none")
    out.print(f"version {version} of {arch} is pinned" if version else f"the best version of {arch} answers again")


@commands.command(epilog="Example: `digits delete wgan 4`")
def delete(
    arch: ArchArgument,
    version: VersionArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a version from the model directory, for ever. Its number is never given again."""
    from app import upkeep
    from app.entries import Source, UnknownVersionError

    generators = load_generators()
    with contextlib.suppress(UnknownVersionError):  # which is told below
        entry = generators.get_entry(arch, str(version))
        if entry.source is not Source.SHIPPED and not yes:
            typer.confirm(f"Remove version {version} of {arch} ({entry.folder}) for ever?", abort=True, err=True)
    with _explaining():
        upkeep.remove(generators, arch, version)
    audit_command("delete", arch=arch, version=version)
    out.print(f"version {version} of {arch} is removed")


@commands.command(epilog="Example: `digits hide wgan 1`")
def hide(arch: ArchArgument, version: VersionArgument) -> None:
    """Leave out a version that comes with the code. `digits show` brings it back."""
    from app import upkeep

    with _explaining():
        upkeep.hide(load_generators(), arch, version)
    audit_command("hide", arch=arch, version=version)
    out.print(f"version {version} of {arch} is hidden")


@commands.command(epilog="Example: `digits show wgan 1`")
def show(arch: ArchArgument, version: VersionArgument) -> None:
    """Bring back a version that was hidden."""
    from app import upkeep

    with _explaining():
        upkeep.show(load_generators(), arch, version)
    audit_command("show", arch=arch, version=version)
    out.print(f"version {version} of {arch} is shown")


@commands.command(epilog="Example: `digits gc --keep 5 --delete`")
def gc(
    keep: Annotated[int, typer.Option(min=1, help="The newest versions of each architecture that stay.")] = 3,
    delete: Annotated[bool, typer.Option("--delete", help="Remove all of it.")] = False,
) -> None:
    """List what nobody needs any more, and remove it with --delete.

    These are versions that were made here, beyond the newest ones, unless they are pinned, the best, or the best
    of their recipe; saved states of jobs that have ended; what dead processes have left; and seed indexes of
    versions that have gone.
    """
    from rich.table import Column, Table

    from app import leftovers

    generators = load_generators()
    with _explaining(), _knowing_jobs(generators.model_dir) as has_ended:
        found = leftovers.find(generators, keep, has_ended)
        sizes = [one.bytes for one in found]
        if found:
            table = Table(
                "what", Column("where", overflow="fold"), Column("MB", justify="right"), box=None, pad_edge=False
            )
            for one, size in zip(found, sizes, strict=True):
                table.add_row(one.what, str(one.path.relative_to(generators.model_dir)), f"{size / 1e6:.1f}")
            out.print(table)
        total = f"{len(found)} {'thing' if len(found) == 1 else 'things'}, {sum(sizes) / 1e6:.1f} MB"
        if not delete:
            out.print(f"{total} can be removed{': `digits gc --delete` does it' if found else ''}")
            return
        for one in found:
            one.remove()
            audit_command("gc", what=one.what, path=str(one.path))
    out.print(f"{total}: removed")


@contextlib.contextmanager
def _knowing_jobs(model_dir: Path) -> "Iterator[Callable[[str], bool | None] | None]":
    """A function that says whether a job has ended; None, and a word about it, if there is no Redis that answers.

    A service on another host, or of another user, may have one that this command was not told.
    """
    from redis.exceptions import RedisError

    from app import leftovers
    from app.processes.reach import UnreachableError, reach
    from app.processes.up import UpError
    from app.processes.valkey import ValkeyError
    from worker.connections import connect, explain
    from worker.jobs import JobStore

    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(reach(Settings()))
            store = JobStore(connect(url)) if url else None
            if store:
                store.count()
        except RedisError as error:
            why = f"redis: {explain(error)}"
        except (UnreachableError, UpError, ValkeyError) as error:
            why = str(error)
        else:
            if store or not leftovers.has_states(model_dir):
                yield store.has_ended if store else None
                return
            why = (
                "there is no Redis here. Set DIGITS_REDIS_URL as the service has it; "
                f"if there is no service any more, remove {model_dir / '.runs'}"
            )
        err.print(f"the states of jobs stay, since nobody can say which of them are needed: {why}", soft_wrap=True)
        yield None


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """End the command with the reason why something is not possible."""
    from redis.exceptions import RedisError

    from app.entries import UnknownVersionError
    from app.upkeep import NeededError, ShippedError, UnwritableError
    from worker.connections import explain

    try:
        yield
    except ShippedError as error:
        fail(f"{error}: see `digits hide`")
    except (UnknownVersionError, NeededError, UnwritableError) as error:
        fail(str(error))
    except RedisError as error:
        fail(f"redis: {explain(error)}")
    except OSError as error:
        fail(f"{error.filename or 'something'} cannot be removed: {error.strerror}")
