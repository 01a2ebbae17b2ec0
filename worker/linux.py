"""What a process asks of Linux about itself: to be told of its parent's death, and to give way.

Both do what they can elsewhere. Knows nothing of jobs.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # of sys/prctl.h


def signal_on_parent_death(number: int) -> None:
    """Have this process get signal ``number`` when its parent dies, so that none is left over (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def yield_cores(niceness: int) -> None:
    """Have the other processes of this machine go first, as ``nice`` does: above all an API.

    ``niceness`` is in 0…19; the higher it is, the more this process gives way.
    """
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    if os.getsid(0) in (os.getpid(), os.getppid()):  # a session that is shared with a shell or an API stays as it is
        with contextlib.suppress(OSError):  # Linux shares time among sessions before it looks at processes
            Path("/proc/self/autogroup").write_text(str(niceness))
