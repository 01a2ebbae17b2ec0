"""Pictures of what lies in files, made off the event loop: one thread that gives way to those that draw.

Must not know of HTTP, or what a picture shows.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from app.album import Album
from app.memory import release_freed_memory
from worker.linux import yield_thread

T = TypeVar("T")

MAX_WAITING = 64  # pictures; one takes up to a second
KEPT_BYTES = 16 << 20  # of files that were made
RETRY_SECONDS = 5  # until another try is worth it
LARGE_BYTES = 2**19  # a file of more took tens of megabytes to make
NICENESS = 10  # against 0 of the threads that draw


class StudioBusyError(Exception):
    """As many pictures are waiting as may be; try again later."""


class Studio:
    """Does pieces of work one after the other, until ``close``. Each is given the album, which nobody else uses."""

    def __init__(self, data_dir: Path) -> None:
        self._album = Album(data_dir)
        self._waiting = 0  # changed on the event loop alone
        self._files: dict[str, bytes] = {}  # by name; used in the thread alone
        self._thread = ThreadPoolExecutor(1, "studio", _prepare)  # it starts with the first work

    def submit(self, work: Callable[[Album], T], name: str = "") -> asyncio.Future[T]:
        """Queue a piece of work. The future gets its result, or the exception that it raises.

        A file that the work makes is kept for a while, under a ``name`` for all that it depends on. Whoever asks
        for that name again, or is waiting for it already, gets the same file.

        If the caller cancels the future, or sets its result or exception, before the work has begun, it is not done.

        Raises:
            StudioBusyError: too much is waiting.
        """
        if self._waiting >= MAX_WAITING:
            raise StudioBusyError(f"{self._waiting} pictures are waiting; try again in {RETRY_SECONDS} s")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._waiting += 1  # first: what is queued counts, also if the system has no thread for it now
        self._thread.submit(self._work, loop, answer, work, name)
        return answer

    def close(self) -> None:
        """End the thread after the work that it does; the rest is not done."""
        self._thread.shutdown(cancel_futures=True)

    def _work(
        self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T], work: Callable[[Album], T], name: str
    ) -> None:
        result: Any = self._files.get(name)
        try:
            if result is None and not answer.done():
                result = work(self._album)
                if name:
                    self._keep(name, result)
        except Exception as error:
            result = error
        loop.call_soon_threadsafe(self._give, answer, result)

    def _keep(self, name: str, file: bytes) -> None:
        self._files[name] = file
        if len(file) > LARGE_BYTES:
            release_freed_memory()
        while sum(map(len, self._files.values())) > KEPT_BYTES:
            self._files.pop(next(iter(self._files)))  # the oldest one

    def _give(self, answer: asyncio.Future[Any], result: Any) -> None:
        self._waiting -= 1
        if answer.done():  # nobody waits for it any more
            return
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)


def _prepare() -> None:
    yield_thread(NICENESS)
    torch.set_num_threads(1)  # of this thread
