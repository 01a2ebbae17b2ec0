"""Watch child processes until a signal arrives, then end them.

Must not know what the children are for.
"""

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from app.processes.child import Child
from worker import linux

POLL_SECONDS = 0.1

Groups = Sequence[Sequence[Child]]  # the children of one group are alike


def watch(groups: Groups, stop: Sequence[int]) -> None:
    """Start all children in order, and start those again that die, until ``stop`` is not empty.

    Raises:
        StartError: a child cannot start.
    """
    while not stop:
        for group in groups:
            for child in group:
                child.watch()
        time.sleep(POLL_SECONDS)


def end(groups: Groups) -> None:
    """End the groups, the last one first. All children of a group are asked to end at the same time."""
    for group in reversed(groups):
        for child in group:
            child.ask_to_end()
        for child in group:
            child.end()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """A list that stays empty until SIGINT, SIGTERM or SIGHUP arrives, which ``nohup`` ignores."""
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, remember) for number in linux.list_end_signals()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
