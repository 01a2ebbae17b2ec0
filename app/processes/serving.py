"""The API in one process, or in several that share its port.

Each process has its own socket on the port, and the kernel spreads the connections among them
(SO_REUSEPORT). With one shared socket, the first process that wakes up would take all waiting
connections, and the others would stay idle.

    digits serve --processes 4
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn

from app.keys import KeysError, read_keys
from app.memory import keep_freed_memory
from app.processes import metrics_folder, supervise
from app.processes.child import Child
from app.settings import ApiSettings, is_loopback
from worker import logs
from worker.settings import LogSettings

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 1  # for unfinished answers when a process is told to end
GRACE_SECONDS = 4.0  # for a process to end, ANSWER_SECONDS included
BACKLOG = 2048  # connections that wait to be accepted
READ_SECONDS = 60  # that a client may read nothing of its answer before its connection is cut (Linux)

# The address to ask if the service listens on all.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104

_ALIKE = ("app.entries", "app.generators", "worker.reconciler")  # what all processes see alike, only one of them logs

_NO_ADDRESS = "this machine has no such address: set DIGITS_HOST"
_MEANINGS = {
    errno.EADDRINUSE: "another process listens there: set DIGITS_PORT",
    errno.EACCES: "ports below 1024 are the system's: set DIGITS_PORT",
    errno.EADDRNOTAVAIL: _NO_ADDRESS,
}


class AddressError(Exception):
    """The service cannot listen on its address; the message names the setting to change."""


def serve(settings: ApiSettings) -> None:
    """Answer until SIGINT or SIGTERM.

    Raises:
        AddressError: it cannot listen on the address, or must not.
        KeysError: the keys file cannot be used.
        UnavailableDeviceError: the device of the settings does not exist here.
        StartError: one of several processes cannot start.
        FolderError: there is no place for what the processes count.
    """
    require_permitted(settings)
    with metrics_folder.make_folder() as folder:
        if settings.processes == 1:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn sends it on when it has ended
            metrics_folder.use(folder, 1)
            run(settings)
        else:
            _run_several(settings, folder)


def _run_several(settings: ApiSettings, folder: Path) -> None:
    require_free(settings)
    told = {
        "DIGITS_HOST": settings.host,
        "DIGITS_PORT": settings.port,
        "DIGITS_API_PROCESSES": settings.processes,
        metrics_folder.ENVIRONMENT: folder,
    }
    environment = {name: str(value) for name, value in told.items()}
    command = [sys.executable, "-P", "-m", "app.processes.serving"]
    children = [
        Child(
            f"api {number}",
            [*command, str(number)],
            GRACE_SECONDS,
            environment,
            on_end=partial(metrics_folder.forget, folder, number),
        )
        for number in range(1, settings.processes + 1)
    ]
    with supervise.stop_on_signal() as stop:
        try:
            supervise.watch([children], stop)
        finally:
            supervise.end([children])


def run(settings: ApiSettings, *, shared: bool = False, announces: bool = True) -> None:
    """Answer in this process. If ``shared``, other processes may listen on the same address.

    :func:`metrics_folder.use` comes first. If it ``announces``, it logs where the service answers.

    Raises:
        AddressError, UnavailableDeviceError: as :func:`serve`.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is loaded; the engine has its own threads
    _schedule_in_batches()
    keep_freed_memory()
    from app.main import create_app
    from app.processes.protocol import IDLE_SECONDS, BoundedProtocol, Places, count_places

    app = create_app(settings)
    protocol = partial(
        BoundedProtocol,
        header_seconds=settings.header_seconds,
        places=Places(count_places(), app.state.telemetry),
        logs_refusals=settings.access_log,
    )
    bound = _open_socket(settings, shared)  # uvicorn listens when the versions are loaded
    _Server(
        uvicorn.Config(
            app,
            http=cast(Any, protocol),
            ws="none",
            timeout_keep_alive=IDLE_SECONDS,
            log_config=None,
            backlog=BACKLOG,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=settings.proxy_addresses,
            access_log=False,  # app/middleware/access_log.py does it
            timeout_graceful_shutdown=ANSWER_SECONDS + 1,
            server_header=False,
        ),
        make_url(settings) if announces else None,
    ).run(sockets=[bound])


class _Server(uvicorn.Server):
    """uvicorn, which ends quietly: streams are completed, and what is not answered in time is cut.

    uvicorn alone would wait for the streams, then cancel them, and log a traceback for each.
    """

    def __init__(self, config: uvicorn.Config, announced: str | None) -> None:
        super().__init__(config)
        self._announced = announced  # the URL of the service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._announced:
            logger.info("the service answers on %s (Ctrl-C ends it); open that in a browser, or try:", self._announced)
            logger.info("  curl -X POST '%s/generate?arch=wgan&n=16' -o wgan.png", self._announced)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await cast(Any, self.config.app).close_streams()
        asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._cut)
        await super().shutdown(sockets)

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def require_permitted(settings: ApiSettings) -> None:
    """Check that whoever can reach the address may use the service.

    Raises:
        AddressError: other machines could reach it, and no setting says that they may.
        KeysError: the keys file cannot be used.
    """
    if settings.keys_file:
        read_keys(settings.keys_file)
    elif not settings.open and not is_loopback(settings.host.lower()):
        raise AddressError(
            f"on {settings.host}, whoever reaches this machine could train and delete. Give out keys and name their "
            "file in DIGITS_KEYS_FILE (`digits keys add --help`), or set DIGITS_OPEN=true in a network that you trust"
        )


def require_free(settings: ApiSettings) -> None:
    """Check that the address is free.

    Raises:
        AddressError: a process that wants the address for itself could not listen on it.
    """
    _open_socket(settings, shared=False).close()


def make_url(settings: ApiSettings) -> str:
    """The URL of the service on this machine."""
    host = _LOOPBACK.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _schedule_in_batches() -> None:
    """Tell the kernel not to interrupt a running thread because another of these processes wakes up.

    Otherwise each message of a client interrupts a thread of the engine, whose CPU caches are then cold
    when it continues. That costs a tenth of the service's speed.
    """
    if hasattr(os, "sched_setscheduler"):  # Linux
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _open_socket(settings: ApiSettings, shared: bool) -> socket.socket:
    host, port = settings.host, settings.port
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, READ_SECONDS * 1000)
        found.bind((host, port))
    except OSError as error:
        found.close()
        meaning = _MEANINGS.get(error.errno or 0, f"{error.strerror}: set DIGITS_HOST or DIGITS_PORT")
        if isinstance(error, socket.gaierror):
            meaning = _NO_ADDRESS
        raise AddressError(f"cannot listen on {host}:{port}: {meaning}") from None
    return found


if __name__ == "__main__":
    from models.device import UnavailableDeviceError

    logs.set_up(LogSettings().log)
    is_first = sys.argv[1] == "1"
    if not is_first:
        for name in _ALIKE:
            logging.getLogger(name).setLevel(logging.WARNING)
    metrics_folder.use(Path(os.environ[metrics_folder.ENVIRONMENT]), int(sys.argv[1]))
    try:
        run(ApiSettings(), shared=True, announces=is_first)
    except (AddressError, KeysError, UnavailableDeviceError) as error:
        logger.error("%s", error)
        raise SystemExit(1) from None
