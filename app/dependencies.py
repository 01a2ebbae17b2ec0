"""Typed aliases that give routes the resources that ``create_app`` owns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, Request

from app.addresses import Receivers
from app.datasets import Exporter
from app.engine import Engine
from app.errors import REDIS_AWAY, UnavailableError
from app.events import Feeds
from app.generators import Generators
from app.indexes import Indexes
from app.studio import Studio
from worker.broker import Publisher
from worker.jobs import JobStore

T = TypeVar("T")

ANSWER_SECONDS = 2.5  # for an answer of Redis, including the wait for a free thread
MAX_THREADS = 40  # calls at a time; a call that timed out keeps its thread for a second or two more


@dataclass(frozen=True)
class JobQueue:
    """The connections to the worker: job records and wake-ups; and the events of jobs."""

    jobs: JobStore
    publisher: Publisher
    receivers: Receivers  # of webhooks
    max_queued: int  # jobs
    max_owned: int | None  # jobs of one client; None: no limit
    limiter: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(MAX_THREADS))

    @cached_property
    def feeds(self) -> Feeds:
        return Feeds(partial(self.ask, self.jobs.read_events))

    async def ask(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run ``call(*arguments)`` in a thread. These threads are separate, so other routes never wait for one.

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
    """Everything that must be opened and closed, kept in ``app.state.resources``."""

    generators: Generators
    indexes: Indexes
    engine: Engine
    exporter: Exporter
    studio: Studio
    deadline_seconds: float  # for drawing a picture
    job_queue: JobQueue | None  # None: no Redis is configured


async def get_resources(request: Request) -> Resources:  # async, or FastAPI would call it in a thread
    resources: Resources = request.app.state.resources
    return resources


async def _get_generators(resources: Annotated[Resources, Depends(get_resources)]) -> Generators:
    return resources.generators


async def _get_job_queue(resources: Annotated[Resources, Depends(get_resources)]) -> JobQueue:
    if resources.job_queue is None:
        raise UnavailableError("training needs redis: set DIGITS_REDIS_URL, or start the service with `digits up`")
    return resources.job_queue


ResourcesDep = Annotated[Resources, Depends(get_resources)]
GeneratorsDep = Annotated[Generators, Depends(_get_generators)]
JobQueueDep = Annotated[JobQueue, Depends(_get_job_queue)]
