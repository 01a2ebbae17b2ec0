"""Processes that are killed, or stopped, just before their k-th change of a folder."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from tests.processes import eventually

_CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["models.checkpoint", "worker.saved", "tests.versions"])


def run_until(step: int, number: int, folder: Path, call: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """``call(*arguments)`` in a process that sends itself signal ``number`` before change ``step`` of ``folder``.

    Returned when it has ended or has stopped; a call of fewer changes ends with exit code 0.
    """
    process = _processes.Process(target=_run, args=(step, number, str(folder), call, arguments))
    process.start()
    watched = psutil.Process(process.pid)
    eventually(lambda: not process.is_alive() or watched.status() == psutil.STATUS_STOPPED, "it ends or stops")
    return process


def _run(step: int, number: int, folder: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    seen = 0

    def count(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _CHANGES and isinstance(details[0], str | Path) and str(details[0]).startswith(folder):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), number)

    sys.addaudithook(count)
    call(*arguments)
