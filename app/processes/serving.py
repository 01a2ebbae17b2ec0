"""The API in one process, or in several that share its port.

Each process has a socket of its own on the port, and the kernel spreads the connections among them
(SO_REUSEPORT). With one socket for all, the first process to wake takes whatever waits, and the
others stay idle.

    digits serve --processes 4
"""

import contextlib
import ctypes
import logging
import os
import socket
import sys

import uvicorn

from app.processes import supervise
from app.processes.child import Child
from app.settings import ApiSettings
from worker.settings import LOG_FORMAT

ANSWER_SECONDS = 1  # for the answers that are under way when a process is to end
GRACE_SECONDS = 3.0  # for a process to end, those included
BACKLOG = 2048  # connections that wait to be accepted

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def serve(settings: ApiSettings) -> None:
    """Answer until SIGINT or SIGTERM.

    Raises:
        OSError: the address cannot be listened on.
        UnavailableDeviceError: the device of the settings does not exist here.
    """
    if settings.processes == 1:
        run(settings)
        return
    if settings.device == "cuda":
        from models import device

        device.resolve(settings.device)  # here: a process that cannot start is started again
    require_free(settings.host, settings.port)
    told = {"DIGITS_HOST": settings.host, "DIGITS_PORT": settings.port, "DIGITS_API_PROCESSES": settings.processes}
    environment = {name: str(value) for name, value in told.items()}
    command = [sys.executable, "-m", "app.processes.serving"]
    children = [
        Child(f"api {number}", command, GRACE_SECONDS, environment) for number in range(1, settings.processes + 1)
    ]
    with supervise.stop_on_signal() as stop:
        try:
            supervise.watch([children], stop)
        finally:
            supervise.end([children])


def run(settings: ApiSettings, *, shared: bool = False) -> None:
    """Answer in this process; ``shared``: others may listen on the same address.

    Raises:
        OSError, UnavailableDeviceError: as :func:`serve`.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is loaded: the engine has threads of its own
    schedule_in_batches()
    keep_freed_memory()
    from app.main import create_app

    app = create_app(settings)
    bound = _open_socket(settings.host, settings.port, shared)  # uvicorn listens when the versions are loaded
    uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            backlog=BACKLOG,
            access_log=False,  # takes a tenth of a small picture's time; what stands before a service has one
            timeout_graceful_shutdown=ANSWER_SECONDS,
            server_header=False,
        )
    ).run(sockets=[bound])


def require_free(host: str, port: int) -> None:
    """Raises OSError where nobody could listen there alone."""
    _open_socket(host, port, shared=False).close()


def schedule_in_batches() -> None:
    """Have the kernel let a thread finish its turn when another of these processes wakes up.

    Otherwise each message of a client interrupts a thread of the engine, which then finds its caches
    cold. That costs a tenth of the service's speed.
    """
    if hasattr(os, "sched_setscheduler"):  # Linux
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def keep_freed_memory() -> None:
    """Have malloc keep up to 64 MB of what was freed, and take blocks up to 32 MB from it.

    A pass of the engine needs some 5 MB for a millisecond. By default malloc may give them back to the
    kernel after each pass and fetch them again page by page, which takes up to twice the time of a pass.
    """
    with contextlib.suppress(AttributeError):  # where the C library is another than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)


def _open_socket(host: str, port: int, shared: bool) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind((host, port))
    except OSError:
        found.close()
        raise
    return found


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    run(ApiSettings(), shared=True)
