"""``digits backup`` and ``digits restore``: jobs and versions as one file, and back."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.audit import audit_command
from app.cli.console import err, fail, out
from app.cli.progress import add_task, make_bar
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.backup import OnProgress
    from worker.copies import CopyStore

commands = typer.Typer()


@commands.command(epilog="Example: `digits backup digits-2026-11-26.tar`")
def backup(output: Annotated[Path, typer.Argument(metavar="FILE", help="The .tar file to write.")]) -> None:
    """Write all jobs and versions to one file. The service may go on meanwhile.

    Versions that come with the code are not in it, and no password. It has webhook secrets, so only you can read it.
    """
    from worker import backup

    settings = Settings()
    if not output.parent.is_dir():
        fail(f"there is no folder {output.parent}")
    if output.exists() and not output.is_file():
        fail(f"{output} is no file: choose another name")
    unfinished = output.with_name(f".{output.name}-{uuid.uuid4().hex}")
    try:
        with _explaining(), _opening_store(settings) as store, _showing() as show:
            if store is None:
                err.print("there is no Redis: the backup will have versions, but no jobs")
            with open(unfinished, "xb", opener=_open_for_me) as file:
                written = backup.write(file, settings.model_dir, store, show)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(output)
    finally:
        unfinished.unlink(missing_ok=True)
    for job_id in written.unreadable:
        err.print(f"job {job_id} is left out: its record cannot be read")
    if written.unreadable_keys:
        err.print(f"{written.unreadable_keys} idempotency keys are left out: they cannot be read")
    jobs = f"{written.jobs} jobs ({written.unfinished} of them unfinished)"
    out.print(f"{output}: {jobs} and {written.versions} versions, {written.bytes / 1e6:.1f} MB", soft_wrap=True)


@commands.command(epilog="Example: `digits restore digits-2026-11-26.tar`")
def restore(path: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `digits backup`.")]) -> None:
    """Put the jobs and versions of a backup back. What is there already stays as it is.

    A job that was running is queued again, and goes on from its last saved state.
    """
    from worker import restore
    from worker.copies import Restored
    from worker.unpacking import InvalidBackupError

    settings = Settings()
    with _explaining(), _opening_store(settings, make=True) as store, _showing() as show:
        assert store
        try:
            done = restore.restore(path, settings.model_dir, store, show)
        except InvalidBackupError as error:
            fail(f"{path} is no whole backup, and nothing was changed: {error}")
        except restore.ConflictError as error:
            fail(f"nothing was changed: {error}")
    audit_command("restore", file=str(path), versions=done.versions, jobs=done.jobs[Restored.RESTORED])
    out.print(
        f"restored {done.versions} versions ({done.versions_there} more were there) "
        f"and {done.jobs[Restored.RESTORED]} jobs ({done.jobs[Restored.THERE]} more were there)"
    )
    if done.jobs[Restored.EXPIRED]:
        out.print(f"{done.jobs[Restored.EXPIRED]} jobs ended too long ago to be kept")
    for name in done.removed:
        out.print(f"{name} was removed here, and stays so")
    for name in sorted(done.shown):
        out.print(f"{name} is still shown, since no other version of it could draw")
    for arch in done.pins_there:
        out.print(f"another version of {arch} is pinned here, and stays so")


def _open_for_me(path: str, flags: int) -> int:
    """Open a new file that no other user can read."""
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def _opening_store(settings: Settings, *, make: bool = False) -> "Iterator[CopyStore | None]":
    """The jobs of the service, whether it runs or not; None if there is no Redis, unless to ``make`` one."""
    from app.processes.reach import reach
    from worker.connections import connect
    from worker.copies import CopyStore

    with reach(settings, make=make) as url:
        yield CopyStore(connect(url)) if url else None


@contextlib.contextmanager
def _showing() -> "Iterator[OnProgress]":
    """A bar, and the function that moves it."""
    with make_bar() as bar:
        task = add_task(bar)

        def show(what: str, done: int, of: int) -> None:
            bar.update(task, completed=done, total=of, epoch=what)

        yield show


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """End the command with the reason why something is not possible."""
    from redis.exceptions import RedisError

    from app.processes.reach import UnreachableError
    from app.processes.up import UpError
    from app.processes.valkey import ValkeyError
    from worker.connections import explain

    try:
        yield
    except (UnreachableError, UpError, ValkeyError) as error:
        fail(str(error))
    except RedisError as error:
        fail(f"redis: {explain(error)}")
    except OSError as error:
        fail(f"{error.filename or 'a file'}: {error.strerror or error}")
