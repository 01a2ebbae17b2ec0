"""``/models``: what is loaded, from where, and what was rejected and why."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from app.dependencies import GeneratorsDep
from app.errors import Unknown
from app.generators import Entry, Generators
from models.archs import ARCHS
from models.checkpoint import Manifest

router = APIRouter(prefix="/models", tags=["models"])


class Version(BaseModel):
    """A version folder; the facts of training stand only where it could be loaded."""

    arch: str
    version: int
    state: Literal["loaded", "rejected"]
    reason: str | None = None  # why it is rejected, or what happened to its files since it was loaded
    source: Literal["shipped", "trained"]
    default: bool  # answers when a request names no version
    recipe: str | None = None
    epochs: int | None = None
    created_at: datetime | None = None
    metrics: dict[str, float] = {}  # of 10,000 images; see docs/architecture.md
    floors: dict[str, float] = {}  # the same figures of real training images


class VersionDetail(Version):
    """A version with its whole manifest."""

    manifest: Manifest | None


@router.get("")
async def list_models(generators: GeneratorsDep) -> list[Version]:
    """Every version of every architecture."""
    return [Version.model_validate(_facts(entry, generators)) for entry in generators.entries]


@router.get("/{arch}")
async def list_versions(arch: str, generators: GeneratorsDep) -> list[Version]:
    """Every version of one architecture."""
    if arch not in ARCHS:
        raise Unknown(f"there is no architecture {arch}", field="arch", bound=list(ARCHS))
    return [version for version in await list_models(generators) if version.arch == arch]


@router.get("/{arch}/{version}")
async def get_version(arch: str, version: str, generators: GeneratorsDep) -> VersionDetail:
    """One version with its manifest; ``latest`` names the newest that is loaded."""
    if arch in ARCHS and version == "latest":
        version = str(generators.get(arch, version).manifest.version)
    entry = _entry(arch, version, generators)
    if entry is None:
        await generators.look_again()  # it may be a moment old
        entry = _entry(arch, version, generators)
    if entry is None:
        raise Unknown(f"there is no version {version} of {arch}", field="version")
    manifest = entry.generator.manifest if entry.generator else None
    return VersionDetail.model_validate({**_facts(entry, generators), "manifest": manifest})


def _entry(arch: str, version: str, generators: Generators) -> Entry | None:
    return next((e for e in generators.entries if (e.arch, str(e.version)) == (arch, version)), None)


def _facts(entry: Entry, generators: Generators) -> dict[str, object]:
    facts: dict[str, object] = {
        "arch": entry.arch,
        "version": entry.version,
        "state": "loaded" if entry.generator else "rejected",
        "reason": entry.problem,
        "source": "shipped" if entry.shipped else "trained",
        "default": False,
    }
    if entry.generator:
        manifest = entry.generator.manifest
        facts |= {
            "default": generators.get(entry.arch) is entry.generator,
            "recipe": str(manifest.recipe.get("name")),
            "epochs": manifest.epochs,
            "created_at": manifest.created_at,
            "metrics": manifest.metrics,
            "floors": manifest.floors,
        }
    return facts
