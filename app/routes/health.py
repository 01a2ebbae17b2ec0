"""``/livez`` and ``/readyz``: is the process alive, and can it draw?"""

from fastapi import APIRouter, Response, status
from pydantic import BaseModel
from redis.exceptions import RedisError

from app.dependencies import GeneratorsDep, ResourcesDep
from app.errors import UnavailableError
from models.archs import ARCHS

router = APIRouter(tags=["health"])


class Readiness(BaseModel):
    """Ready means that every architecture has a loaded version, whether Redis answers or not."""

    ready: bool
    generators: dict[str, int]  # the number of loaded versions of each architecture
    model_dir: str  # "ok", or why new versions are not found
    redis: str  # "ok", "away" or "not configured"; unless it is "ok", /train and /jobs answer 503


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"model": Readiness, "description": "not ready"}})
async def readyz(generators: GeneratorsDep, resources: ResourcesDep, response: Response) -> Readiness:
    """Whether ``/generate`` can answer for every architecture, and the state of each part."""
    counts = {arch: sum(1 for e in generators.entries if e.arch == arch and e.loaded) for arch in ARCHS}
    redis = "not configured"
    if resources.job_queue:
        try:
            await resources.job_queue.ask(resources.job_queue.jobs.ping)
            redis = "ok"
        except (RedisError, UnavailableError):
            redis = "away"
    ready = all(counts.values())
    if not ready:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Readiness(ready=ready, generators=counts, model_dir=generators.problem or "ok", redis=redis)
