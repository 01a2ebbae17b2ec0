"""Everything on one machine: a Valkey of its own, a worker and the API under one supervisor.

The children are started in that order and ended in the reverse one. One that dies is started
again, after a pause that grows while it keeps dying. A lock on the state directory keeps a second
supervisor away, and the kernel ends the children if the supervisor itself is killed (Linux).

    digits up
"""

import contextlib
import fcntl
import http.client
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from app import serving, valkey
from app.child import Child, stop_on_signal
from app.settings import ApiSettings

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where a service that listens everywhere is asked


class UpError(Exception):
    """The service cannot start; the message says what to do."""


def up(settings: ApiSettings) -> None:
    """Run everything until SIGINT or SIGTERM.

    Raises:
        UpError: the state directory or the port is taken.
        ValkeyError: there is no Valkey for this platform, or it does not start.
    """
    with _locked(settings.state_dir), stop_on_signal() as stop:
        try:
            serving.require_free(settings.host, settings.port)
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise UpError(f"cannot listen on {where} ({error.strerror}): set DIGITS_PORT") from None
        environment: dict[str, str] = {}
        children: list[Child] = []
        try:
            if settings.redis_url is None:
                server, url = valkey.make(settings.state_dir)
                environment["DIGITS_REDIS_URL"] = url
                children.append(server)
                server.start()
                valkey.wait_until_ready(server, url, lambda: bool(stop))
            digits = [sys.executable, "-m", "app.cli"]
            children.append(Child("worker", [*digits, "worker"], 30.0, environment))
            children.append(Child("api", [*digits, "serve"], serving.GRACE_SECONDS + 1, environment))
            announced = False
            while not stop:
                for child in children:
                    child.watch()
                if not announced and _answers(settings):
                    announced = True
                    _announce(settings)
                time.sleep(POLL_SECONDS)
        finally:
            for child in reversed(children):
                child.end()
            logger.info("ended")


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """Hold the state directory; the lock ends with the process, however that ends."""
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
    connection = http.client.HTTPConnection(host, settings.port, timeout=POLL_SECONDS)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _announce(settings: ApiSettings) -> None:
    url = _url(settings)
    logger.info("the service answers on %s (Ctrl-C ends it); try:", url)
    logger.info("  curl -X POST '%s/generate?arch=wgan&n=16' -o wgan.png", url)


def _url(settings: ApiSettings) -> str:
    host = _LOOPBACK.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
