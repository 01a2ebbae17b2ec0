"""The hot path, off the event loop: seeds → passes of images → encoded answers.

What draws is a version, or anything else that makes images of numbers.

A thread takes up to ``inference.BATCH`` waiting images of one version and draws them in one pass.
Requests that arrive while the threads are busy may share a pass. A request that needs several passes
goes to the end of the queue after each one, so that small requests do not wait for large ones. The
thread that draws the last image of a request encodes its answer; large answers are encoded apart,
one at a time, in a thread that gives way to the others. Data sets are drawn in the background.

Must not know of HTTP, or where seeds come from.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from app.memory import release_freed_memory
from app.rendering import Images
from models.inference import BATCH
from worker.linux import yield_thread

T = TypeVar("T")

Part = tuple["_Request", range]  # of a pass: a request, and which of its images

MAX_IMAGES = 64 * 1024  # of all unanswered requests together
MAX_REQUESTS = 4096  # unanswered
FIRST_GUESS_SECONDS = 100e-6
BACKGROUND_BATCH = 16  # images of a pass that others may have to wait for
TURNS = 8  # passes of others, after which the background gets one
QUIET_SECONDS = 0.005  # without a request of others, until the background gets all
ENCODER_NICENESS = 10  # against 0 of the threads that draw
SMOOTHING = 0.1  # the weight of the last pass in the moving average


class EngineBusyError(Exception):
    """Too many images or requests are waiting; try again after ``retry_seconds``."""

    def __init__(self, requests: int, images: int, retry_seconds: int) -> None:
        super().__init__(f"{requests} requests with {images} images are waiting; try again in {retry_seconds} s")
        self.retry_seconds = retry_seconds


class Drawing(Protocol):
    """What draws: a version, or something that draws with one. Equal ones share passes."""

    def draw(self, seeds: Sequence[int], /) -> Images:
        """One image per seed, ``[len(seeds), 28, 28]``; at most ``BATCH`` seeds. Thread-safe."""

    def __hash__(self) -> int: ...

    @property
    def arch(self) -> str:
        """The architecture that draws."""


@dataclass(eq=False)
class _Request:
    version: Drawing
    seeds: Sequence[int]
    encode: Callable[[Images], Any]
    apart: bool  # encode it in the thread for large answers
    background: bool  # others go first
    answer: asyncio.Future[Any]
    images: Images  # filled while they are drawn
    arrived: float
    begun: int = 0  # images that a thread has taken
    drawn: int = 0
    error: Exception | None = None


class Engine:
    """Draws and encodes in its own threads, from ``start`` to ``close``."""

    def __init__(
        self, threads: int, wait_seconds: float, count_pass: Callable[[str, int], None] = lambda arch, images: None
    ) -> None:
        """``wait_seconds``: how long a pass waits for more images if it is not full and another pass is running.

        ``count_pass`` is told of each pass that was drawn: the architecture, and how many images.
        """
        self._loop: asyncio.AbstractEventLoop
        self._wait_seconds = wait_seconds
        self._count_pass = count_pass
        self._changed = threading.Condition()  # guards the attributes below
        self._queues: dict[Drawing, deque[_Request]] = {}  # none is empty; the first one is served next
        self._background: deque[_Request] = deque()
        self._others = 0  # passes since the last one of the background
        self._others_at = 0.0  # when the last request came that is not of the background
        self._requests = 0  # unanswered
        self._images = 0  # of the unanswered requests
        self._passes = 0  # running
        self._image_seconds = FIRST_GUESS_SECONDS  # that one thread takes for an image, smoothed
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"engine-{i}") for i in range(threads)]
        self._encoder = ThreadPoolExecutor(1, "encoder", _prepare_encoder)  # for large answers

    def start(self) -> None:
        """Start the threads. They give their answers to the event loop that is running now."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        version: Drawing,
        seeds: Sequence[int],
        encode: Callable[[Images], T],
        *,
        apart: bool = False,
        background: bool = False,
    ) -> asyncio.Future[T]:
        """Queue a request. The future gets ``encode(images)``: ``[len(seeds), 28, 28]``, in the order of ``seeds``.

        ``apart``: encoding takes so long that other requests should not wait for it. ``background``: so does drawing.
        Such a request gets small passes, and one more to encode it: when no other has come for a while, and one
        after ``TURNS`` of others.

        If drawing or encoding fails, the future gets the exception. If the caller cancels the future, or
        sets its result or exception, the engine does not draw the rest of the images.

        Raises:
            ValueError: ``seeds`` is empty.
            EngineBusyError: too much is waiting.
        """
        n = len(seeds)
        if n == 0:
            raise ValueError("there are no seeds to draw")
        with self._changed:
            if self._images + n > MAX_IMAGES or self._requests >= MAX_REQUESTS:
                seconds = max(1, math.ceil(self._images * self._image_seconds / len(self._threads)))
                raise EngineBusyError(self._requests, self._images, seconds)
            images = np.empty((n, 28, 28), np.uint8)
            answer: asyncio.Future[T] = self._loop.create_future()
            request = _Request(version, seeds, encode, apart, background, answer, images, time.monotonic())
            if background:
                self._background.append(request)
            else:
                self._others_at = request.arrived
                self._queues.setdefault(version, deque()).append(request)
            self._requests += 1
            self._images += n
            self._changed.notify()
        return answer

    def count_waiting(self) -> tuple[int, int]:
        """How many requests have no answer yet, and how many images they ask for."""
        return self._requests, self._images

    def close(self) -> None:
        """Cancel all waiting requests and end the threads."""
        with self._changed:
            self._closed = True
            for queue in (*self._queues.values(), self._background):
                for request in queue:
                    request.answer.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident:  # it was started
                thread.join()
        self._encoder.shutdown(cancel_futures=True)

    def _work(self) -> None:
        torch.set_num_threads(1)  # the engine's own threads use all cores
        while parts := self._next_pass():
            began = time.perf_counter()
            complete = self._draw(parts)
            self._finish([request for request in complete if not request.apart])
            images = sum(len(taken) for _, taken in parts)
            with self._changed:
                self._passes -= 1
                if images:
                    seconds = (time.perf_counter() - began) / images
                    self._image_seconds += SMOOTHING * (seconds - self._image_seconds)
            for request in complete:
                if request.apart:
                    self._encoder.submit(self._finish_large, request)

    def _finish(self, complete: list[_Request]) -> None:
        """Encode requests and give their answers."""
        answers = [(request.answer, _encode(request)) for request in complete]
        with self._changed:
            self._requests -= len(complete)
            self._images -= sum(len(request.seeds) for request in complete)
        if answers:
            self._loop.call_soon_threadsafe(_give, answers)

    def _finish_large(self, request: _Request) -> None:
        self._finish([request])
        release_freed_memory()

    def _next_pass(self) -> list[Part]:
        """Wait for work and take up to ``BATCH`` images of one version; return nothing once the engine is closed."""
        with self._changed:
            while not self._closed:
                if not self._queues and not self._background:
                    self._changed.wait()
                elif (seconds := self._seconds_to_wait()) > 0:
                    self._changed.wait(seconds)
                elif parts := self._take():
                    self._passes += 1
                    if self._queues or self._background:
                        self._changed.notify()
                    return parts
            return []

    def _seconds_to_wait(self) -> float:
        """The seconds that the next pass should still wait for more images."""
        if not self._queues:  # one who asks again soon should not find the cores taken
            return 0.0 if self._others >= TURNS else self._others_at + QUIET_SECONDS - time.monotonic()
        queue = next(iter(self._queues.values()))
        if not self._passes or sum(len(request.seeds) - request.begun for request in islice(queue, BATCH)) >= BATCH:
            return 0.0
        return queue[0].arrived + self._wait_seconds - time.monotonic()

    def _take(self) -> list[Part]:
        if self._background and (not self._queues or self._others >= TURNS):
            self._others = 0
            return self._take_from(self._background, BACKGROUND_BATCH, requests=1)
        self._others += 1
        version = next(iter(self._queues))
        queue = self._queues.pop(version)
        parts = self._take_from(queue, BATCH)
        if queue:
            self._queues[version] = queue  # behind the other versions
        return parts

    def _take_from(self, queue: deque[_Request], room: int, requests: int = MAX_REQUESTS) -> list[Part]:
        """Up to ``room`` images of the first requests of a queue. What is unfinished goes to its end."""
        parts: list[Part] = []
        unfinished: list[_Request] = []
        while queue and room and len(parts) < requests:
            request = queue.popleft()
            if request.answer.done():
                self._requests -= 1
                self._images -= len(request.seeds)
                continue
            taken = range(request.begun, min(request.begun + room, len(request.seeds)))
            parts.append((request, taken))
            request.begun = taken.stop
            room -= len(taken)
            if request.begun < len(request.seeds):
                unfinished.append(request)
        queue.extend(unfinished)
        return parts

    def _draw(self, parts: list[Part]) -> list[_Request]:
        """Draw a pass; return the requests that are complete now."""
        error: Exception | None = None
        try:
            seeds = [seed for request, taken in parts for seed in request.seeds[taken.start : taken.stop]]
            images = parts[0][0].version.draw(seeds) if seeds else np.empty((0, 28, 28), np.uint8)
            start = 0
            for request, taken in parts:
                request.images[taken.start : taken.stop] = images[start : start + len(taken)]
                start += len(taken)
            if seeds:
                self._count_pass(parts[0][0].version.arch, len(seeds))
        except Exception as exception:
            error = exception
        with self._changed:
            for request, taken in parts:
                request.drawn += len(taken)
                request.error = request.error or error
            complete = [(request, taken) for request, taken in parts if request.drawn == len(request.seeds)]
            again = [request for request, taken in complete if request.background and taken]
            self._background.extendleft(again)  # to be encoded in a turn of its own, so that others wait less
            return [request for request, _ in complete if request not in again]


def _prepare_encoder() -> None:
    yield_thread(ENCODER_NICENESS)
    torch.set_num_threads(1)  # what it reads must not take the cores of the threads that draw


def _encode(request: _Request) -> Any:
    """The answer or, if it fails, the exception."""
    if request.error:
        return request.error
    if request.answer.done():
        return None
    try:
        return request.encode(request.images)
    except Exception as error:
        return error


def _give(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in answers:
        if future.done():  # nobody waits for this answer any more
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
