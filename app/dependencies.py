"""What routes are given: typed aliases for the resources that ``create_app`` owns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, Request
from redis.asyncio import Redis

from app.engine import Engine
from app.errors import REDIS_AWAY, UnavailableError
from app.generators import Generators
from worker.broker import Publisher
from worker.jobs import JobStore

T = TypeVar("T")

ANSWER_SECONDS = 2.5  # for Redis, however many callers wait for it
MAX_THREADS = 40  # callers at a time; a call that is given up still ends in its thread, a second or two later


@dataclass(frozen=True)
class JobQueue:
    """The way to the worker: job records, wake-ups, events."""

    jobs: JobStore
    publisher: Publisher
    events: Redis
    limiter: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(MAX_THREADS))

    async def ask(self, call: Callable[..., T], *arguments: Any) -> T:
        """``call(*arguments)`` in a thread. These threads are apart: no caller of another route waits for one.

        Raises:
            UnavailableError: there is no answer within ``ANSWER_SECONDS``.
        """
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                return await anyio.to_thread.run_sync(
                    partial(call, *arguments), limiter=self.limiter, abandon_on_cancel=True
                )
        except TimeoutError:
            raise UnavailableError(REDIS_AWAY) from None


@dataclass(frozen=True)
class Resources:
    """Everything with a lifetime, as ``app.state.resources``."""

    generators: Generators
    engine: Engine
    deadline_seconds: float  # of a picture
    job_queue: JobQueue | None  # None: no Redis is configured


def get_resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


async def _get_resources(request: Request) -> Resources:  # async, or FastAPI would call it in a thread
    return get_resources(request)


async def _get_generators(resources: Annotated[Resources, Depends(_get_resources)]) -> Generators:
    return resources.generators


async def _get_job_queue(resources: Annotated[Resources, Depends(_get_resources)]) -> JobQueue:
    if resources.job_queue is None:
        raise UnavailableError("training needs redis: set DIGITS_REDIS_URL, or start the service with `digits up`")
    return resources.job_queue


ResourcesDep = Annotated[Resources, Depends(_get_resources)]
GeneratorsDep = Annotated[Generators, Depends(_get_generators)]
JobQueueDep = Annotated[JobQueue, Depends(_get_job_queue)]
