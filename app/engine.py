"""The hot path off the event loop: requests → passes of images → encoded answers.

A thread takes what waits and draws it, up to ``inference.BATCH`` images of one generator at a time,
whosever they are: while it is busy, requests gather and share passes. A request that needs several
passes queues again for each, behind the others, so that small ones do not wait for large ones. The
thread that draws the last image of a request encodes its answer.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from app.errors import Busy
from app.generators import Generator
from app.rendering import Images
from models.inference import BATCH

Encode = Callable[[Images], bytes]
Part = tuple["_Request", range]  # of a pass: which images of which request

MAX_IMAGES = 64 * 1024  # of requests that have no answer yet
MAX_REQUESTS = 4096  # of these
FIRST_GUESS_SECONDS = 100e-6
SMOOTHING = 0.1  # the weight of the last pass


@dataclass(eq=False)
class _Request:
    generator: Generator
    seed: int
    n: int
    encode: Encode
    answer: asyncio.Future[bytes]
    images: Images  # what is drawn so far
    arrived: float
    begun: int = 0  # images that a thread has taken
    drawn: int = 0
    error: Exception | None = None


class Engine:
    """Draws and encodes in threads of its own. Made in a running event loop; close it when that ends."""

    def __init__(self, threads: int, wait_seconds: float) -> None:
        """``wait_seconds``: how long a pass that is not full waits for more while another is under way."""
        self._loop = asyncio.get_running_loop()
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()  # guards what follows
        self._queues: dict[Generator, deque[_Request]] = {}  # none is empty; the first one is next
        self._requests = 0  # that have no answer yet
        self._images = 0  # of these
        self._passes = 0  # under way
        self._image_seconds = FIRST_GUESS_SECONDS  # of a thread for an image, smoothed
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"engine-{i}") for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, generator: Generator, seed: int, n: int, encode: Encode) -> asyncio.Future[bytes]:
        """The answer to come: ``encode`` of the images of the seeds ``seed`` … ``seed + n - 1``.

        Cancel it or end it otherwise, and what is not drawn yet never is. It may hold what ``encode`` raises.

        Raises:
            Busy: too much is waiting.
        """
        with self._changed:
            if self._images + n > MAX_IMAGES or self._requests >= MAX_REQUESTS:
                seconds = max(1, math.ceil(self._images * self._image_seconds / len(self._threads)))
                raise Busy(
                    f"{self._requests} requests with {self._images} images are waiting; try again in {seconds} s",
                    headers={"Retry-After": str(seconds)},
                )
            images = np.empty((n, 28, 28), np.uint8)
            request = _Request(generator, seed, n, encode, self._loop.create_future(), images, time.monotonic())
            self._queues.setdefault(generator, deque()).append(request)
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
            answers = [(request.answer, _answer(request)) for request in complete]
            seconds = (time.perf_counter() - began) / sum(len(taken) for _, taken in parts)
            with self._changed:
                self._passes -= 1
                self._requests -= len(complete)
                self._images -= sum(request.n for request in complete)
                self._image_seconds += SMOOTHING * (seconds - self._image_seconds)
            if answers:
                self._loop.call_soon_threadsafe(_give, answers)

    def _next_pass(self) -> list[Part]:
        """Wait for work and take up to ``BATCH`` images of one generator; none when the engine is closed."""
        with self._changed:
            while not self._closed:
                if not self._queues:
                    self._changed.wait()
                elif (seconds := self._patience()) > 0:
                    self._changed.wait(seconds)
                elif parts := self._take():
                    self._passes += 1
                    if self._queues:
                        self._changed.notify()
                    return parts
            return []

    def _patience(self) -> float:
        """For how many seconds the next pass is to wait for more images."""
        queue = next(iter(self._queues.values()))
        if not self._passes or sum(request.n - request.begun for request in islice(queue, BATCH)) >= BATCH:
            return 0.0
        return queue[0].arrived + self._wait_seconds - time.monotonic()

    def _take(self) -> list[Part]:
        generator = next(iter(self._queues))
        queue = self._queues.pop(generator)
        parts: list[Part] = []
        unfinished: list[_Request] = []
        room = BATCH
        while queue and room:
            request = queue.popleft()
            if request.answer.done():
                self._requests -= 1
                self._images -= request.n
                continue
            taken = range(request.begun, min(request.begun + room, request.n))
            parts.append((request, taken))
            request.begun = taken.stop
            room -= len(taken)
            if request.begun < request.n:
                unfinished.append(request)
        queue.extend(unfinished)
        if queue:
            self._queues[generator] = queue  # behind the other generators
        return parts

    def _draw(self, parts: list[Part]) -> list[_Request]:
        """Draw a pass; the requests of which nothing is left to draw."""
        error: Exception | None = None
        try:
            seeds = [request.seed + index for request, taken in parts for index in taken]
            images = parts[0][0].generator.images(seeds).numpy()
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
            return [request for request, _ in parts if request.drawn == request.n]


def _answer(request: _Request) -> bytes | Exception:
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
