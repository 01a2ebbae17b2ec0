"""How many threads a training on the CPU uses. It is measured when a run begins, and kept for the whole run.

The threads of one operation wait for each other. If another process keeps one of their cores busy, all of them wait
for that core: dcgan with two threads on two cores then trains 200 times slower than with one. So only free
cores count: docs/trials.md.
"""

import hashlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from models import mnist
from worker.recipes import Recipe
from worker.step import make_networks, make_step

LOOK_SECONDS = 0.3  # for the free cores, and for the speed with each number of threads
NEARLY_FREE = 0.2  # of a core, that others may use
NEARLY_BEST = 0.9  # of the best speed is enough: fewer threads wait less for others

_BLOCK = bytes(2**23)  # some milliseconds of work without the lock of Python
_WARM_UP_STEPS, _LEAST_ROUNDS = 2, 2


def choose(recipe: Recipe, images: Tensor) -> int:
    """The fewest threads with nearly the best speed now. Takes about a second; changes no random state.

    ``images`` is ``[n, 28, 28]`` uint8 on the CPU. The number is at most ``torch.get_num_threads()``,
    which is the number of cores or ``OMP_NUM_THREADS``.
    """
    most = torch.get_num_threads()
    free = 1 if most == 1 else count_free_cores(most)
    if free == 1:
        return 1
    speeds = {threads: _measure_speed(recipe, images, threads) for threads in _list_candidates(free)}
    return min(threads for threads, speed in speeds.items() if speed >= NEARLY_BEST * max(speeds.values()))


def count_free_cores(most: int) -> int:
    """How many of ``most`` cores this process would get for itself now: at least one."""
    shares: list[float] = []

    def work() -> None:
        began, used = time.perf_counter(), time.thread_time()
        while time.perf_counter() - began < LOOK_SECONDS:
            hashlib.sha256(_BLOCK)
        shares.append((time.thread_time() - used) / (time.perf_counter() - began))

    workers = [threading.Thread(target=work) for _ in range(most)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(1, int(sum(shares) + NEARLY_FREE))


@contextmanager
def use(threads: int | None) -> Iterator[None]:
    """Let torch use so many threads meanwhile; None: as many as it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _list_candidates(most: int) -> list[int]:
    """1, 2, 4, … and ``most``."""
    powers = itertools.takewhile(lambda threads: threads < most, (2**i for i in itertools.count()))
    return [*powers, most]


def _measure_speed(recipe: Recipe, images: Tensor, threads: int) -> float:
    """Steps a second, in the best of some rounds that have equally many penalties, with networks of their own."""
    real = mnist.scale(images[: recipe.images_per_step])
    times: list[float] = []
    with use(threads), torch.random.fork_rng(devices=[]):
        step = make_step(make_networks(recipe, images, torch.device("cpu")))
        for number in range(_WARM_UP_STEPS):
            step(number, real)
        began = time.perf_counter()
        while len(times) < _LEAST_ROUNDS or time.perf_counter() - began < LOOK_SECONDS:
            round_began = time.perf_counter()
            for number in range(recipe.penalty_every):
                step(number, real)
            times.append((time.perf_counter() - round_began) / recipe.penalty_every)
    return 1 / min(times)
