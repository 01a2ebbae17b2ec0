"""Pictures of digits whose latents lie on a way: morphs from one to another, and neighbours."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from app import animations
from app.caching import choose_freshness
from app.dependencies import ResourcesDep
from app.entries import LoadedVersion
from app.openapi import BY_VERSION, Described, describe_cached, describe_problems
from app.rendering import Images, describe, encode_grid, make_grid, measure_grid, require_possible
from app.routes.answers import PNG, WEBP, Answering, AnsweringDep, PictureQuery, Seed
from app.walks import AROUND, Morph, Neighbours
from worker.recipes import ArchName

FRAME_MS, END_MS = 60, 600  # how long a digit between the two is shown, and each of these

router = APIRouter(tags=["pictures"])


class DrawnQuery(PictureQuery):
    """What all pictures that one version draws have in their query."""

    arch: ArchName
    version: str | None = Field(None, description="a number, or latest; default: the pinned one, else the best")


class MorphQuery(DrawnQuery):
    """The query of ``/morph.webp`` and ``/morph.png``."""

    first: Seed = Field(alias="from", description="the seed of the first digit")
    last: Seed = Field(alias="to", description="the seed of the last digit")
    frames: int = Field(24, ge=2, le=64, description="how many pictures, both digits among them")


class NeighboursQuery(DrawnQuery):
    """The query of ``/neighbours.png``."""

    seed: Seed = Field(description="of the digit in the middle")


def _describe(media_type: str) -> Described:
    return {**describe_cached(media_type, BY_VERSION), **describe_problems(404, 429, 504)}


@router.get("/morph.webp", response_class=Response, responses=_describe(WEBP))
async def get_morph(
    query: Annotated[MorphQuery, Query()], resources: ResourcesDep, answering: AnsweringDep
) -> Response:
    """A digit that becomes another one and then itself again, as an animation that loops.

    The first and the last of ``frames`` pictures are those that ``/generate`` draws of both seeds.
    """
    animations.require_possible(2 * query.frames - 2, measure_grid(1, None, query.scale))

    def encode(images: Images) -> bytes:
        there_and_back = [*images, *images[-2:0:-1]]
        frames = [make_grid(image[None], None, query.scale) for image in there_and_back]
        shown = [END_MS if number in (0, len(images) - 1) else FRAME_MS for number in range(len(frames))]
        return animations.encode_animation(frames, shown)

    loaded = await resources.generators.find(query.arch, query.version)
    return await _draw(answering, query, WEBP, loaded, _make_morph(query, loaded), query.frames, encode)


@router.get("/morph.png", response_class=Response, responses=_describe(PNG))
async def get_morph_frames(
    query: Annotated[MorphQuery, Query()], resources: ResourcesDep, answering: AnsweringDep
) -> Response:
    """The pictures of ``/morph.webp`` from one digit to the other, in one row, with 2 grey pixels between two."""
    require_possible(PNG, measure_grid(query.frames, query.frames, query.scale))

    def encode(images: Images) -> bytes:
        facts = describe(loaded.manifest, **{"from": str(query.first), "to": str(query.last)})
        return encode_grid(images, query.frames, query.scale, facts)

    loaded = await resources.generators.find(query.arch, query.version)
    return await _draw(answering, query, PNG, loaded, _make_morph(query, loaded), query.frames, encode)


@router.get("/neighbours.png", response_class=Response, responses=_describe(PNG))
async def get_neighbours(
    query: Annotated[NeighboursQuery, Query()], resources: ResourcesDep, answering: AnsweringDep
) -> Response:
    """The digit of a seed, and around it eight that the version draws of latents near to its own: 3 × 3."""

    def encode(images: Images) -> bytes:
        return encode_grid(images, 3, query.scale, describe(loaded.manifest, seed=str(query.seed)))

    loaded = await resources.generators.find(query.arch, query.version)
    return await _draw(answering, query, PNG, loaded, Neighbours(loaded, query.seed), AROUND + 1, encode)


def _make_morph(query: MorphQuery, loaded: LoadedVersion) -> Morph:
    return Morph(loaded, query.first, query.last, query.frames)


async def _draw(
    answering: Answering,
    query: DrawnQuery,
    media_type: str,
    loaded: LoadedVersion,
    walk: Morph | Neighbours,
    steps: int,
    encode: Callable[[Images], bytes],
) -> Response:
    """What one version draws of the steps of a walk."""
    return await answering.answer(
        lambda _: answering.draw(walk, range(steps), encode, apart=True),
        media_type=media_type,
        facts=(loaded.facts, query.model_dump(exclude={"version"})),
        freshness=choose_freshness(query.version),
        by=loaded.manifest,
    )
