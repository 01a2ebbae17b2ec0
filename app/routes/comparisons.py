"""Digits side by side: those of all architectures and real ones, and real ones alone."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Response
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from app.album import Album
from app.caching import choose_freshness
from app.dependencies import ResourcesDep
from app.openapi import describe_cached, describe_problems
from app.orders import DEFAULT_N, MAX_N
from app.rendering import Images, encode_grid, measure_grid, require_possible
from app.routes.answers import PNG, AnsweringDep, PictureQuery, Seed
from models import seeds
from models.archs import ARCHS

MAX_ROWS = 64

router = APIRouter(tags=["pictures"])


class CompareQuery(PictureQuery):
    """The query of ``/compare.png``."""

    seeds: str = Field(
        "0-15",
        pattern="^[0-9]{1,10}-[0-9]{1,10}$",
        description=f"the first and the last one; at most {MAX_ROWS}",
    )
    recipe: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="of the versions; default: the default version of each architecture",
    )

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, text: str) -> str:
        first, last = map(int, text.split("-"))
        if last > seeds.MAX_SEED:
            raise PydanticCustomError("seed_range", f"Input should end at {seeds.MAX_SEED}", {"le": seeds.MAX_SEED})
        if not first <= last < first + MAX_ROWS:
            detail = f"Input should be a-b with 1 to {MAX_ROWS} seeds, as 0-15"
            raise PydanticCustomError("seed_range", detail, {"ge": 1, "le": MAX_ROWS})
        return text

    @property
    def each(self) -> range:
        first, last = map(int, self.seeds.split("-"))
        return range(first, last + 1)


class RealQuery(PictureQuery):
    """The query of ``/real.png``."""

    n: int = Field(DEFAULT_N, ge=1, le=MAX_N, description="how many digits")
    seed: Seed = Field(0, description="which ones: digit i is number seed + i of the test images, which repeat")
    columns: int | None = Field(None, ge=1, le=MAX_N, description="columns of the grid; default: near-square")


@router.get(
    "/compare.png",
    response_class=Response,
    responses={**describe_cached(PNG), **describe_problems(404, 429, 503, 504)},
)
async def compare(
    query: Annotated[CompareQuery, Query()], resources: ResourcesDep, answering: AnsweringDep
) -> Response:
    """What each architecture draws of the same seeds, and real digits: a row per seed, four columns.

    The columns are vanilla, dcgan, wgan, and the test images of these numbers, which repeat.
    """
    versions = [await resources.generators.find_of_recipe(arch, query.recipe) for arch in ARCHS]
    real, real_sha256 = await answering.work(Album.read_real)

    async def make(name: str) -> bytes:
        columns = [await answering.draw(loaded, query.each, lambda images: images) for loaded in versions]
        columns.append(_choose_real(real, query.each))
        cells = np.stack(columns, axis=1).reshape(-1, 28, 28)
        facts = {"seeds": query.seeds, **{loaded.manifest.arch: str(loaded.manifest.version) for loaded in versions}}
        return await answering.work(lambda _: encode_grid(cells, len(columns), query.scale, facts), name)

    facts = (*(loaded.facts for loaded in versions), real_sha256, query)
    return await answering.answer(make, media_type=PNG, facts=facts, freshness=choose_freshness(None))


@router.get(
    "/real.png", response_class=Response, responses={**describe_cached(PNG), **describe_problems(429, 503, 504)}
)
async def get_real(query: Annotated[RealQuery, Query()], answering: AnsweringDep) -> Response:
    """Real handwritten digits, of the 10,000 test images. No generator learned from them."""
    require_possible(PNG, measure_grid(query.n, query.columns, query.scale))
    real, real_sha256 = await answering.work(Album.read_real)
    numbers = range(query.seed, query.seed + query.n)

    def draw(_: Album) -> bytes:
        facts = {"seed": str(query.seed), "sha256": real_sha256}
        return encode_grid(_choose_real(real, numbers), query.columns, query.scale, facts)

    return await answering.answer(
        partial(answering.work, draw), media_type=PNG, facts=(real_sha256, query), freshness=choose_freshness(None)
    )


def _choose_real(real: Images, numbers: Sequence[int]) -> Images:
    return real[[number % len(real) for number in numbers]]
