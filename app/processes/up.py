"""Everything on one machine: a Valkey of its own, a worker and the API under one supervisor.

The children start in that order and end in the reverse order. A child that dies is started again
after a pause, which grows while it keeps dying. A lock on the state directory prevents a second
supervisor. If the supervisor itself is killed, the kernel ends the children (Linux only).

    digits up
"""

import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from app.processes import serving, supervise, valkey
from app.processes.child import Child
from app.settings import ApiSettings

logger = logging.getLogger(__name__)

COMMAND = [sys.executable, "-P", "-m", "app"]  # digits; -P: whatever modules the current folder has


class UpError(Exception):
    """The service cannot start here; the message says what to do."""


class TakenError(UpError):
    """Another process runs on the state directory; stop it, or name another directory."""

    def __init__(self, holder: str, state_dir: Path) -> None:
        super().__init__(
            f"process {holder} is running on {state_dir}: stop it, or name another directory in DIGITS_STATE_DIR"
        )
        self.holder = holder  # its id


def up(settings: ApiSettings) -> None:
    """Run everything until SIGINT or SIGTERM.

    Raises:
        UpError: the state directory is taken or cannot be written.
        AddressError: the API cannot listen on its address, or must not.
        KeysError: the keys file cannot be used.
        StartError: the worker or the API cannot start.
        ValkeyError: there is no Valkey for this platform, or it does not start.
    """
    with lock(settings.state_dir), supervise.stop_on_signal() as stop:
        serving.require_permitted(settings)
        serving.require_free(settings)
        logger.info("jobs are kept in %s, versions in %s", settings.state_dir, settings.model_dir)
        environment: dict[str, str] = {}
        address = {"DIGITS_HOST": settings.host, "DIGITS_PORT": str(settings.port)}
        groups: list[list[Child]] = []
        try:
            if settings.redis_url is None:
                server, url = valkey.make(settings.state_dir, settings.port)
                environment["DIGITS_REDIS_URL"] = url
                groups.append([server])
                server.start()
                valkey.wait_until_ready(server, url, lambda: bool(stop))
            groups.append([Child("worker", [*COMMAND, "worker"], 30.0, environment)])
            groups.append([Child("api", [*COMMAND, "serve"], serving.GRACE_SECONDS + 1, {**environment, **address})])
            supervise.watch(groups, stop)
        finally:
            supervise.end(groups)
            logger.info("ended")


@contextlib.contextmanager
def lock(state_dir: Path) -> Iterator[None]:
    """Lock the state directory. The lock ends with the process, even if the process is killed.

    Raises:
        TakenError: another process has locked it.
        UpError: it cannot be written.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        file = (state_dir / "up.lock").open("a+")
    except OSError as error:
        raise UpError(f"DIGITS_STATE_DIR: cannot write to {state_dir}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise TakenError(file.read().strip() or "unknown", state_dir) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
