"""The hot path off the event loop: seeds → passes of images → encoded answers.

A thread takes what waits and draws it, up to ``inference.BATCH`` images of one version at a time.
The images of a pass may belong to several requests: they gather while the thread is busy. A request
that needs several passes queues again for each, behind the others, so that small ones do not wait
for large ones. The thread that draws the last image of a request encodes its answer.

Must not know of HTTP, nor of where seeds come from.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from app.generators import LoadedVersion
from app.rendering import Encode, Images
from models.inference import BATCH

Part = tuple["_Request", range]  # of a pass: which images of which request

MAX_IMAGES = 64 * 1024  # of requests that have no answer yet
MAX_REQUESTS = 4096  # of these
FIRST_GUESS_SECONDS = 100e-6
SMOOTHING = 0.1  # the weight of the last pass


class EngineBusyError(Exception):
    """Too many images or requests wait already. Try again in ``retry_seconds``."""

    def __init__(self, requests: int, images: int, retry_seconds: int) -> None:
        super().__init__(f"{requests} requests with {images} images are waiting; try again in {retry_seconds} s")
        self.retry_seconds = retry_seconds


@dataclass(eq=False)
class _Request:
    version: LoadedVersion
    seeds: Sequence[int]
    encode: Encode
    answer: asyncio.Future[bytes]
    images: Images  # what is drawn so far
    arrived: float
    begun: int = 0  # images that a thread has taken
    drawn: int = 0
    error: Exception | None = None


class Engine:
    """Draws and encodes in threads of its own, between ``start`` and ``close``."""

    def __init__(self, threads: int, wait_seconds: float) -> None:
        """``wait_seconds``: how long a pass that is not full waits for more while another is under way."""
        self._loop: asyncio.AbstractEventLoop
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()  # guards what follows
        self._queues: dict[LoadedVersion, deque[_Request]] = {}  # none is empty; the first one is next
        self._requests = 0  # that have no answer yet
        self._images = 0  # of these
        self._passes = 0  # under way
        self._image_seconds = FIRST_GUESS_SECONDS  # of a thread for an image, smoothed
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"engine-{i}") for i in range(threads)]

    def start(self) -> None:
        """Begin to draw. Answers are given in the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def submit(self, version: LoadedVersion, seeds: Sequence[int], encode: Encode) -> asyncio.Future[bytes]:
        """The answer to come: ``encode`` of the images of ``seeds`` (``[len(seeds), 28, 28]``), in their order.

        Cancel it or end it otherwise, and what is not drawn yet never is. It may hold what ``encode`` raises.

        Raises:
            EngineBusyError: too much is waiting.
        """
        n = len(seeds)
        with self._changed:
            if self._images + n > MAX_IMAGES or self._requests >= MAX_REQUESTS:
                seconds = max(1, math.ceil(self._images * self._image_seconds / len(self._threads)))
                raise EngineBusyError(self._requests, self._images, seconds)
            images = np.empty((n, 28, 28), np.uint8)
            request = _Request(version, seeds, encode, self._loop.create_future(), images, time.monotonic())
            self._queues.setdefault(version, deque()).append(request)
            self._requests += 1
            self._images += n
            self._changed.notify()
        return request.answer

    def close(self) -> None:
        """End the threads; what is waiting is canceled."""
        with self._changed:
            self._closed = True
            for queue in self._queues.values():
                for request in queue:
                    request.answer.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        torch.set_num_threads(1)  # the threads run beside each other
        while parts := self._next_pass():
            began = time.perf_counter()
            complete = self._draw(parts)
            answers = [(request.answer, _encode(request)) for request in complete]
            seconds = (time.perf_counter() - began) / sum(len(taken) for _, taken in parts)
            with self._changed:
                self._passes -= 1
                self._requests -= len(complete)
                self._images -= sum(len(request.seeds) for request in complete)
                self._image_seconds += SMOOTHING * (seconds - self._image_seconds)
            if answers:
                self._loop.call_soon_threadsafe(_give, answers)

    def _next_pass(self) -> list[Part]:
        """Wait for work and take up to ``BATCH`` images of one version; none when the engine is closed."""
        with self._changed:
            while not self._closed:
                if not self._queues:
                    self._changed.wait()
                elif (seconds := self._seconds_to_wait()) > 0:
                    self._changed.wait(seconds)
                elif parts := self._take():
                    self._passes += 1
                    if self._queues:
                        self._changed.notify()
                    return parts
            return []

    def _seconds_to_wait(self) -> float:
        """For how many seconds the next pass is to wait for more images."""
        queue = next(iter(self._queues.values()))
        if not self._passes or sum(len(request.seeds) - request.begun for request in islice(queue, BATCH)) >= BATCH:
            return 0.0
        return queue[0].arrived + self._wait_seconds - time.monotonic()

    def _take(self) -> list[Part]:
        version = next(iter(self._queues))
        queue = self._queues.pop(version)
        parts: list[Part] = []
        unfinished: list[_Request] = []
        room = BATCH
        while queue and room:
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
        if queue:
            self._queues[version] = queue  # behind the other versions
        return parts

    def _draw(self, parts: list[Part]) -> list[_Request]:
        """Draw a pass; the requests of which nothing is left to draw."""
        error: Exception | None = None
        try:
            seeds = [seed for request, taken in parts for seed in request.seeds[taken.start : taken.stop]]
            images = parts[0][0].version.draw(seeds)
            start = 0
            for request, taken in parts:
                request.images[taken.start : taken.stop] = images[start : start + len(taken)]
                start += len(taken)
        except Exception as exception:
            error = exception
        with self._changed:
            for request, taken in parts:
                request.drawn += len(taken)
                request.error = request.error or error
            return [request for request, _ in parts if request.drawn == len(request.seeds)]


def _encode(request: _Request) -> bytes | Exception:
    if request.error:
        return request.error
    if request.answer.done():
        return b""
    try:
        return request.encode(request.images)
    except Exception as error:
        return error


def _give(answers: list[tuple[asyncio.Future[bytes], bytes | Exception]]) -> None:
    for future, answer in answers:
        if future.done():  # nobody waits for it
            continue
        if isinstance(answer, bytes):
            future.set_result(answer)
        else:
            future.set_exception(answer)
