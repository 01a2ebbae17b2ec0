"""The Redis of the service, for a command that needs it for a while, whether the service runs or not."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from app.processes import up, valkey
from worker.settings import Settings


class UnreachableError(Exception):
    """A `digits up` runs, but its Valkey cannot be reached from here; stop it first."""


@contextlib.contextmanager
def reach(settings: Settings, *, make: bool = False) -> Iterator[str | None]:
    """Its URL: as set, or of the `digits up` that runs on the state directory, or of its Valkey, started meanwhile.

    None if there is none, since no job was ever queued here; to ``make`` one instead.

    Raises:
        UnreachableError, ValkeyError: it is there, but cannot be reached.
        UpError: the state directory cannot be written.
    """
    if settings.redis_url:
        yield settings.require_redis()
        return
    if not make and not (settings.state_dir / "valkey").is_dir():
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(up.lock(settings.state_dir))
        except up.TakenError as error:
            url = _find_url(error.holder)
            if url is None:
                raise UnreachableError(
                    f"`digits up` runs on {settings.state_dir}, and its Valkey cannot be reached from here: "
                    "stop it first, or run this as the same user, on Linux"
                ) from None
        else:
            server, url = valkey.make(settings.state_dir)
            stack.callback(server.end)
            server.start()
            valkey.wait_until_ready(server, url)
        yield url


def _find_url(supervisor: str) -> str | None:
    """The URL that a `digits up` gave its children. Linux shows it to the same user, as it is in no file."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == supervisor:
                for line in (process / "environ").read_bytes().split(b"\0"):
                    name, _, value = line.partition(b"=")
                    if name == b"DIGITS_REDIS_URL":
                        return os.fsdecode(value)
        except (OSError, IndexError):  # it has ended, or is another user's
            continue
    return None
