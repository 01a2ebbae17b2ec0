"""What a process asks of its system."""

import os
import subprocess
import sys

import pytest

NICE = 15

# Imports come first: nobody else may read the files of a root that runs this.
YIELD = f"""
import os
from worker.linux import yield_cores, yield_thread
os.nice({NICE} - os.getpriority(os.PRIO_PROCESS, 0))
if os.getuid() == 0:
    os.setuid(65534)
yield_thread(10)
yield_cores(10)
print(os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_who_has_less_priority_already_keeps_it() -> None:
    """As with ``nice -n 15 digits serve``: only root may raise a priority again."""
    assert os.getpriority(os.PRIO_PROCESS, 0) <= NICE
    said = subprocess.run([sys.executable, "-c", YIELD], check=True, capture_output=True, text=True).stdout
    assert int(said) == NICE
