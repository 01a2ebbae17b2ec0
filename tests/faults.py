"""Processes that are killed, or stopped, just before their k-th change of files."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import psutil

from tests.processes import eventually

_CHANGES = {"open", "flush", "mkdir", "rename", "unlink", "rmdir"}  # what is written reaches the file when flushed

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["models.publishing", "worker.saved", "tests.versions"])


def run_until(step: int, number: int, call: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """``call(*arguments)`` in a process that sends itself signal ``number`` before its change ``step`` of files.

    Returned when it has ended or has stopped; a call of fewer changes ends with exit code 0.
    """
    process = _processes.Process(target=_run, args=(step, number, call, arguments))
    process.start()
    watched = psutil.Process(process.pid)
    eventually(lambda: not process.is_alive() or watched.status() == psutil.STATUS_STOPPED, "it ends or stops")
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
