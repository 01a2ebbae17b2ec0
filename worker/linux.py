"""What a process asks of its system: its cores, which signals end it, one when its parent dies, a lower priority.

On other systems, the functions do what they can. Knows nothing of jobs.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # of sys/prctl.h


def signal_on_parent_death(number: int) -> None:
    """Get signal ``number`` when the parent process dies, so that no process is left over (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def list_end_signals() -> list[signal.Signals]:
    """The signals that ask a process to end: of Ctrl-C, of ``kill``, and, unless ``nohup``, of a closing terminal."""
    hang_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hang_up]


def yield_cores(niceness: int) -> None:
    """Let the other processes of this machine run first, above all an API, as ``nice`` does.

    ``niceness`` is in 0…19; a higher value means a lower priority of this process.
    """
    _lower_priority(0, niceness)
    if os.getsid(0) in (os.getpid(), os.getppid()):  # not a session shared with a shell or an API
        with contextlib.suppress(OSError):  # Linux divides CPU time among sessions first, then among processes
            Path("/proc/self/autogroup").write_text(str(os.getpriority(os.PRIO_PROCESS, 0)))


def yield_thread(niceness: int) -> None:
    """Let the other threads of this process and of others run before the calling one (Linux only)."""
    if sys.platform == "linux":
        _lower_priority(threading.get_native_id(), niceness)


def _lower_priority(number: int, niceness: int) -> None:
    """Give a process or thread this niceness, if its own is less: only root may raise a priority again."""
    os.setpriority(os.PRIO_PROCESS, number, max(niceness, os.getpriority(os.PRIO_PROCESS, number)))


def count_cores() -> int:
    """The cores of this process: those that it may run on, limited by the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no quota
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, -(-int(quota) // int(period)))
    return cores
