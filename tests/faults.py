"""Processes that are killed, or stopped, just before their k-th change to files."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import psutil

from tests.processes import eventually

_CHANGES = {"open", "flush", "mkdir", "rename", "unlink", "rmdir"}  # no write: data reaches the file when flushed

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pytest", "models.publishing", "worker.saved", "tests.processes", "tests.versions"])


def run_until(step: int, number: int, call: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Run ``call(*arguments)`` in a process that sends itself signal ``number`` before its file change ``step``.

    Returns the process when it has ended or stopped. A call with fewer changes ends with exit code 0.
    """
    process = _processes.Process(target=_run, args=(step, number, call, arguments))
    process.start()

    def halted() -> bool:
        try:
            return not process.is_alive() or psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:  # it ended between the two checks
            process.join()  # until multiprocessing knows it, too
            return True

    eventually(halted, "it ends or stops", poll_seconds=0.001)
    return process


def _run(step: int, number: int, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    seen = 0

    def count(_: FrameType, event: str, called: Any) -> None:
        nonlocal seen
        if event == "c_call" and called.__name__ in _CHANGES:
            seen += 1
            if seen == step:
                os.kill(os.getpid(), number)

    sys.setprofile(count)
    call(*arguments)
    sys.setprofile(None)
