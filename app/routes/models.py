"""``/models``: which versions there are, from where, and what was rejected and why."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from app.dependencies import GeneratorsDep
from app.errors import NotFoundError
from app.generators import Entry, EntryState, Source
from app.openapi import describe_problems
from models.archs import ARCHS
from models.manifest import Manifest

router = APIRouter(prefix="/models", tags=["models"])


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
    """It is used if a request names no version."""
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


@router.get("/{arch}/{version}", responses=describe_problems(404))
async def get_version(arch: str, version: str, generators: GeneratorsDep) -> VersionDetail:
    """One version with its manifest.

    ``latest`` is the newest one that was trained or imported here; without any, the default one.
    """
    require_arch(arch)
    entry = await generators.find_entry(arch, version)
    return VersionDetail.model_validate({**_list_facts(entry), "manifest": entry.manifest})


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


def _list_facts(entry: Entry) -> dict[str, object]:
    facts: dict[str, object] = {
        "arch": entry.arch,
        "version": entry.version,
        "state": entry.state,
        "reason": entry.problem,
        "source": entry.source,
        "default": entry.is_default,
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
