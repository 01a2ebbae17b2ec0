"""``/livez`` and ``/readyz``: is the process alive, and can it draw?"""

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, Response, status
from pydantic import BaseModel, ConfigDict
from redis.exceptions import RedisError

from app.dependencies import GeneratorsDep, JobQueue, ResourcesDep
from app.errors import UnavailableError
from app.generators import Generators
from models.archs import ARCHS
from worker.connections import SILENT, explain

router = APIRouter(tags=["health"])


class Versions(BaseModel):
    """The versions of one architecture."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    usable: int
    """How many can draw."""
    rejected: int
    """How many are damaged; ``/models`` has the reasons."""
    default: int | None
    """The number of the one that draws if a request names none."""
    pinned: int | None
    """The number of the one that is pinned."""
    problem: str | None
    """Why the pinned one does not draw, if it does not."""


class Queue(BaseModel):
    """The training queue."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    queued: int
    """How many jobs wait."""
    workers: int
    """How many workers are alive. One that was lost counts for another half minute."""


class Readiness(BaseModel):
    """Ready means that every architecture has a usable version, whether Redis answers or not."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    ready: bool
    """Whether ``/generate`` can answer for every architecture."""
    versions: dict[str, Versions]
    """Of each architecture."""
    model_dir: str
    """``ok``, or why new versions are not found."""
    redis: Literal["ok", "away", "refuses", "not configured"]
    """Whether a job can be queued. Unless it is ``ok``, ``POST /train`` answers 503."""
    redis_problem: str | None = None
    """Why not, and what to do."""
    queue: Queue | None = None
    """Null if it is not known."""


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"model": Readiness, "description": "not ready"}})
async def readyz(generators: GeneratorsDep, resources: ResourcesDep, response: Response) -> Readiness:
    """Whether ``/generate`` can answer for every architecture, and the state of each part."""
    found = Readiness(
        ready=False,
        versions={arch: _count_versions(generators, arch) for arch in ARCHS},
        model_dir=generators.problem or "ok",
        redis="not configured",
    )
    if resources.job_queue:
        await _look_at_redis(resources.job_queue, found)
    found.ready = all(versions.usable for versions in found.versions.values())
    if not found.ready:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return found


def _count_versions(generators: Generators, arch: str) -> Versions:
    entries = [entry for entry in generators.entries if entry.arch == arch]
    usable = [entry for entry in entries if entry.is_usable]
    pin = generators.pins[arch]
    return Versions(
        usable=len(usable),
        rejected=len(entries) - len(usable),
        default=next((entry.version for entry in usable if entry.is_default), None),
        pinned=pin.version,
        problem=pin.problem,
    )


async def _look_at_redis(queue: JobQueue, found: Readiness) -> None:
    """Try what a new job needs, and count."""
    asked: tuple[Callable[[], object], ...] = (queue.jobs.probe, queue.publisher.count_waiting)
    try:
        for call in asked:
            await queue.ask(call)
        queued, workers = await queue.ask(queue.jobs.count)
        found.redis, found.queue = "ok", Queue(queued=queued, workers=workers)
    except (RedisError, UnavailableError) as error:
        found.redis_problem = explain(error)
        found.redis = "away" if found.redis_problem == SILENT else "refuses"
