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
from app.errors import REDIS_AWAY, Unavailable, UnsupportedMedia
from app.generators import Generators
from worker.jobs import JobStore
from worker.queue import Publisher

T = TypeVar("T")

ANSWER_SECONDS = 2.5  # for Redis, however many callers wait for it
MAX_THREADS = 40  # callers at a time; a call that is given up still ends in its thread, a second or two later


@dataclass(frozen=True)
class Training:
    """The way to the worker."""

    jobs: JobStore
    publisher: Publisher
    events: Redis
    limiter: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(MAX_THREADS))

    async def ask(self, call: Callable[..., T], *arguments: Any) -> T:
        """``call(*arguments)`` in a thread of its own kind: no caller of another route waits for one.

        Raises:
            Unavailable: there is no answer within ``ANSWER_SECONDS``.
        """
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                return await anyio.to_thread.run_sync(
                    partial(call, *arguments), limiter=self.limiter, abandon_on_cancel=True
                )
        except TimeoutError:
            raise Unavailable(REDIS_AWAY) from None


@dataclass(frozen=True)
class Resources:
    """Everything with a lifetime, as ``app.state.resources``."""

    generators: Generators
    engine: Engine
    deadline_seconds: float  # of a picture
    training: Training | None  # None: no Redis is configured


def resources_of(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


async def _resources(request: Request) -> Resources:  # async, or FastAPI would call it in a thread
    return resources_of(request)


async def _generators(resources: Annotated[Resources, Depends(_resources)]) -> Generators:
    return resources.generators


async def _training(resources: Annotated[Resources, Depends(_resources)]) -> Training:
    if resources.training is None:
        raise Unavailable("training needs redis: set DIGITS_REDIS_URL, or start the service with `digits up`")
    return resources.training


async def json_body(request: Request) -> None:
    """Refuse a body of another media type, before it is taken for bad JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMedia(
            f"the body is {media_type or 'of no media type'}; send application/json",
            field="Content-Type",
            bound="application/json",
        )


ResourcesDep = Annotated[Resources, Depends(_resources)]
GeneratorsDep = Annotated[Generators, Depends(_generators)]
TrainingDep = Annotated[Training, Depends(_training)]
