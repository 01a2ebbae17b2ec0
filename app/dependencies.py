"""What routes are given: typed aliases for the resources that ``create_app`` owns."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.engine import Engine
from app.errors import Unavailable, UnsupportedMedia
from app.generators import Generators
from worker.jobs import JobStore
from worker.queue import Publisher


@dataclass(frozen=True)
class Training:
    """The way to the worker."""

    jobs: JobStore
    publisher: Publisher


@dataclass(frozen=True)
class Resources:
    """Everything with a lifetime, as ``app.state.resources``."""

    generators: Generators
    engine: Engine
    training: Training | None  # None: no Redis is configured


def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


def _generators(resources: Annotated[Resources, Depends(_resources)]) -> Generators:
    return resources.generators


def _engine(resources: Annotated[Resources, Depends(_resources)]) -> Engine:
    return resources.engine


def _training(resources: Annotated[Resources, Depends(_resources)]) -> Training:
    if resources.training is None:
        raise Unavailable("training needs redis: set DIGITS_REDIS_URL, or start the service with `digits up`")
    return resources.training


def json_body(request: Request) -> None:
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
EngineDep = Annotated[Engine, Depends(_engine)]
TrainingDep = Annotated[Training, Depends(_training)]
