"""The hot path off the event loop: a bounded number of requests, drawn and encoded in threads.

One thread a core, each with one of torch's own: requests run beside each other instead of
fighting for the cores.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from app.errors import Busy

T = TypeVar("T")

MAX_IN_FLIGHT = 128  # requests running or waiting; each holds its picture in memory
RETRY_AFTER_SECONDS = 1


class Engine:
    """Runs the drawing of pictures. Close it when the service ends."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(
            os.cpu_count(), thread_name_prefix="engine", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._in_flight = 0

    async def run(self, draw: Callable[[], T]) -> T:
        """Call ``draw`` in a thread.

        Raises:
            Busy: too many requests are in flight.
        """
        if self._in_flight >= MAX_IN_FLIGHT:
            raise Busy(
                f"{MAX_IN_FLIGHT} requests are in flight already; try again",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self._in_flight += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, draw)
        finally:
            self._in_flight -= 1

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
