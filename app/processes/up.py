"""Everything on one machine: a Valkey of its own, a worker and the API under one supervisor.

The children start in that order and end in the reverse order. A child that dies is started again
after a pause, which grows while it keeps dying. A lock on the state directory prevents a second
supervisor. If the supervisor itself is killed, the kernel ends the children (Linux only).

    digits up
"""

import contextlib
import fcntl
import http.client
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
LOOK_SECONDS = 0.1  # for one answer while the API starts

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # the address to ask if the service listens on all


class UpError(Exception):
    """The service cannot start here; the message says what to do."""


def up(settings: ApiSettings) -> None:
    """Run everything until SIGINT or SIGTERM.

    Raises:
        UpError: the state directory or the port is taken.
        ValkeyError: there is no Valkey for this platform, or it does not start.
    """
    with _lock(settings.state_dir), supervise.stop_on_signal() as stop:
        try:
            serving.require_free(settings.host, settings.port)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise UpError(f"cannot listen on {where} ({error.strerror}): set DIGITS_PORT") from None
        environment: dict[str, str] = {}
        groups: list[list[Child]] = []
        try:
            if settings.redis_url is None:
                server, url = valkey.make(settings.state_dir, settings.port)
                environment["DIGITS_REDIS_URL"] = url
                groups.append([server])
                server.start()
                valkey.wait_until_ready(server, url, lambda: bool(stop))
            groups.append([Child("worker", [*COMMAND, "worker"], 30.0, environment)])
            groups.append([Child("api", [*COMMAND, "serve"], serving.GRACE_SECONDS + 1, environment)])
            supervise.watch(groups, stop, _Announcer(settings))
        finally:
            supervise.end(groups)
            logger.info("ended")


class _Announcer:
    """Logs the service's address and folders as soon as it answers."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._done = False

    def __call__(self) -> None:
        if self._done or not _answers(self._settings):
            return
        self._done = True
        url = _make_url(self._settings)
        logger.info("jobs are kept in %s, versions in %s", self._settings.state_dir, self._settings.model_dir)
        logger.info("the service answers on %s (Ctrl-C ends it); try:", url)
        logger.info("  curl -X POST '%s/generate?arch=wgan&n=16' -o wgan.png", url)


@contextlib.contextmanager
def _lock(state_dir: Path) -> Iterator[None]:
    """Lock the state directory. The lock ends with the process, even if the process is killed."""
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / "up.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UpError(
                f"process {file.read().strip() or 'unknown'} is running on {state_dir}: "
                "stop it, or name another directory in DIGITS_STATE_DIR"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _answers(settings: ApiSettings) -> bool:
    host = _LOOPBACK.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=LOOK_SECONDS)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _make_url(settings: ApiSettings) -> str:
    host = _LOOPBACK.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
