"""``/models``: what is loaded, from where, and what was rejected and why."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel

from app.dependencies import GeneratorsDep
from app.errors import NotFoundError
from app.generators import Entry, EntryState, Source
from app.openapi import describe_problems
from models.archs import ARCHS
from models.manifest import Manifest

router = APIRouter(prefix="/models", tags=["models"])


class Version(BaseModel):
    """A version. It has the facts about its training only if it could be loaded."""

    arch: str
    version: int
    state: EntryState
    reason: str | None = None  # why it is rejected, or what happened to its files after it was loaded
    source: Source
    default: bool  # used if a request names no version
    recipe: str | None = None
    epochs: int | None = None
    created_at: datetime | None = None
    metrics: dict[str, float] = {}  # of 10,000 images (emd: 1,000); see docs/architecture.md
    floors: dict[str, float] = {}  # the same metrics of real training images


class VersionDetail(Version):
    """A version with its whole manifest."""

    manifest: Manifest | None


@router.get("")
async def list_models(generators: GeneratorsDep) -> list[Version]:
    """Every version of every architecture."""
    return [Version.model_validate(_list_facts(entry)) for entry in generators.entries]


@router.get("/{arch}", responses=describe_problems(404))
async def list_versions(arch: str, generators: GeneratorsDep) -> list[Version]:
    """Every version of one architecture."""
    _require_arch(arch)
    return [version for version in await list_models(generators) if version.arch == arch]


@router.get("/{arch}/{version}", responses=describe_problems(404))
async def get_version(arch: str, version: str, generators: GeneratorsDep) -> VersionDetail:
    """One version with its manifest; ``latest`` is the newest one that is loaded."""
    _require_arch(arch)
    entry = await generators.find(generators.get_entry, arch, version)
    manifest = entry.loaded.manifest if entry.loaded else None
    return VersionDetail.model_validate({**_list_facts(entry), "manifest": manifest})


def _require_arch(arch: str) -> None:
    if arch not in ARCHS:
        raise NotFoundError(f"there is no architecture {arch}", field="arch", bound=list(ARCHS))


def _list_facts(entry: Entry) -> dict[str, object]:
    facts: dict[str, object] = {
        "arch": entry.arch,
        "version": entry.version,
        "state": entry.state,
        "reason": entry.problem,
        "source": entry.source,
        "default": entry.is_default,
    }
    if entry.loaded:
        manifest = entry.loaded.manifest
        facts |= {
            "recipe": manifest.recipe_name,
            "epochs": manifest.epochs,
            "created_at": manifest.created_at,
            "metrics": manifest.metrics,
            "floors": manifest.floors,
        }
    return facts
