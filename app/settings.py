"""Settings of the API, from the environment (``DIGITS_*``), read once, in the entry points only."""

import contextlib
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from worker.settings import Settings

MAX_PROCESSES = 64


class ApiSettings(Settings):
    """Where the API listens, on this machine alone unless told otherwise, since there are no keys yet; how it draws."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    workers: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] | None = None  # unset: see processes
    batch_wait_ms: Annotated[float, Field(ge=0, le=100)] = 1.0
    deadline_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0

    @property
    def processes(self) -> int:
        """Of the API: as told, or one a core; one for a GPU, of which there is a single one to feed."""
        gpu = self.device == "cuda" or (self.device == "auto" and Path("/dev/nvidiactl").exists())
        return self.workers or (1 if gpu else min(usable_cores(), MAX_PROCESSES))

    @property
    def engine_threads(self) -> int:
        """Of each process, so that together they use every core."""
        return -(-usable_cores() // self.processes)


def usable_cores() -> int:
    """Of this process: those that it may run on, and no more than its container may use the time of."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max" for no bound
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, -(-int(quota) // int(period)))
    return cores
