"""``/models``: which versions there are, from where, and what was rejected and why."""

import asyncio
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Response, status
from pydantic import BaseModel, ConfigDict, Field, field_validator

from app import upkeep
from app.audit import audit
from app.dependencies import GeneratorsDep
from app.entries import Entry, EntryState, Source, UnknownVersionError
from app.errors import NotFoundError, UnprocessableError
from app.generators import Generators
from app.openapi import describe_problems
from app.routes.classes import MAX_NUMBER, JsonRoute
from models.archs import ARCHS
from models.manifest import Manifest
from worker.jobs import require_number

router = APIRouter(prefix="/models", tags=["models"], route_class=JsonRoute)

Number = Annotated[int, Path(ge=1, le=MAX_NUMBER, description="the number of a version")]


class Version(BaseModel):
    """A version. It has the facts about its training only if its manifest could be read."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    arch: str
    """Its architecture."""
    version: int
    """Its number, from 1."""
    state: EntryState
    """Whether it can draw: loaded, on_disk (it is loaded when it is asked for) or rejected."""
    reason: str | None = None
    """Why it is rejected, or what happened to its files after it was loaded."""
    source: Source
    """shipped with the code, trained here, or imported here from files."""
    default: bool
    """It is used if a request names no version: the pinned one, else the best."""
    pinned: bool
    """It is the default because somebody has said so."""
    recipe: str | None = None
    """The hyperparameters of its training; imported: they are unknown."""
    epochs: int | None = None
    """How many epochs it was trained; 0: an imported one does not say it."""
    created_at: datetime | None = None
    """When its training had ended, or when it was imported."""
    metrics: dict[str, float] = {}
    """Of 10,000 of its images (emd: 1,000), without unit; docs/architecture.md says what each is."""
    floors: dict[str, float] = {}
    """The same metrics of real training images."""


class VersionDetail(Version):
    """A version with its whole manifest."""

    manifest: Manifest | None
    """How it was made, and the sums of its files."""


@router.get("")
async def list_models(generators: GeneratorsDep) -> list[Version]:
    """Every version of every architecture."""
    return [describe(entry) for entry in generators.entries]


@router.get("/{arch}", responses=describe_problems(404))
async def list_versions(arch: str, generators: GeneratorsDep) -> list[Version]:
    """Every version of one architecture."""
    require_arch(arch)
    return [version for version in await list_models(generators) if version.arch == arch]


class Choice(BaseModel):
    """The body of ``PUT /models/{arch}/default``."""

    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(ge=1, le=MAX_NUMBER, description="the version to pin; null takes the pin away")
    _check_number = field_validator("version", mode="before")(require_number)


class Default(BaseModel):
    """Which version of an architecture answers if a request names none."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    version: int | None
    """The number of the one that answers; null: none can draw."""
    pinned: int | None
    """The number that is pinned; null: the best one answers."""
    problem: str | None
    """Why the pinned one does not answer, if it does not."""


@router.get("/{arch}/default", responses=describe_problems(404))
async def get_default(arch: str, generators: GeneratorsDep) -> Default:
    """Which version answers if a request names none, and whether it is pinned."""
    require_arch(arch)
    return describe_default(generators, arch)


@router.put("/{arch}/default", responses=describe_problems(404, 415))
async def put_default(arch: str, choice: Choice, generators: GeneratorsDep) -> Default:
    """Pin a version: it answers if a request names none, whatever is better. ``null`` takes the pin away.

    This process does so at once, every other one within a second. If a pinned version is missing or damaged later,
    the best one answers.
    """
    require_arch(arch)
    try:
        await asyncio.to_thread(upkeep.pin, generators, arch, choice.version)
        audit("pin", arch=arch, version=choice.version or "none")
    except UnknownVersionError as error:
        bound = {"usable": error.usable} if error.usable else None
        raise UnprocessableError(str(error), field="version", bound=bound) from None
    return describe_default(generators, arch)


@router.get("/{arch}/{version}", responses=describe_problems(404))
async def get_version(arch: str, version: str, generators: GeneratorsDep) -> VersionDetail:
    """One version with its manifest.

    ``latest`` is the newest one that was trained or imported here; without any, the default one.
    """
    require_arch(arch)
    return _describe_fully(await generators.find_entry(arch, version))


@router.delete(
    "/{arch}/{version:number}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses={204: {"description": "it is gone; a shipped one is hidden"}, **describe_problems(404, 405, 409)},
)
async def delete_version(arch: str, version: Number, generators: GeneratorsDep) -> Response:
    """Remove a version for ever. One that comes with the code is hidden; ``PUT`` shows it again.

    What is being drawn from it is finished. This process forgets it at once, every other one within a second. Its
    number is never given again. A version that is pinned, or the last one of its architecture that can draw, stays:
    409.
    """
    require_arch(arch)
    is_removed = await asyncio.to_thread(upkeep.remove_or_hide, generators, arch, version)
    audit("delete" if is_removed else "hide", arch=arch, version=version)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.put("/{arch}/{version:number}", responses=describe_problems(404, 405))
async def show_version(arch: str, version: Number, generators: GeneratorsDep) -> VersionDetail:
    """Show a version that comes with the code and was hidden by ``DELETE``. One that is removed stays so: 404."""
    require_arch(arch)
    await asyncio.to_thread(upkeep.show, generators, arch, version)
    audit("show", arch=arch, version=version)
    return _describe_fully(await generators.find_entry(arch, str(version)))


def require_arch(arch: str) -> None:
    """Go on only if there is such an architecture.

    Raises:
        NotFoundError: there is none.
    """
    if arch not in ARCHS:
        raise NotFoundError(f"there is no architecture {arch}", field="arch", bound=list(ARCHS))


def describe(entry: Entry) -> Version:
    """An entry as the API gives it."""
    return Version.model_validate(_list_facts(entry))


def describe_default(generators: Generators, arch: str) -> Default:
    """Which version of an architecture answers, as the API gives it."""
    answering = [entry.version for entry in generators.entries if entry.arch == arch and entry.is_default]
    pin = generators.pins[arch]
    return Default(version=next(iter(answering), None), pinned=pin.version, problem=pin.problem)


def _describe_fully(entry: Entry) -> VersionDetail:
    return VersionDetail.model_validate({**_list_facts(entry), "manifest": entry.manifest})


def _list_facts(entry: Entry) -> dict[str, object]:
    facts: dict[str, object] = {
        "arch": entry.arch,
        "version": entry.version,
        "state": entry.state,
        "reason": entry.problem,
        "source": entry.source,
        "default": entry.is_default,
        "pinned": entry.is_pinned,
    }
    if manifest := entry.manifest:
        facts |= {
            "recipe": manifest.recipe_name,
            "epochs": manifest.epochs,
            "created_at": manifest.created_at,
            "metrics": manifest.metrics,
            "floors": manifest.floors,
        }
    return facts
