"""``/generate``: a picture of digits, drawn now."""

from typing import Annotated, Any

import mimeparse
from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from app.dependencies import EngineDep, GeneratorsDep
from app.engine import Engine
from app.errors import NotAcceptable, Unprocessable
from app.generators import LATEST, Generator, Generators
from app.rendering import FORMATS, ImpossiblePictureError, Picture
from models import seeds
from worker.recipes import ArchName

MAX_N = 1024

router = APIRouter(tags=["generate"])


class Order(BaseModel):
    """The query of ``/generate``."""

    model_config = ConfigDict(extra="forbid")

    arch: ArchName
    n: int = Field(16, ge=1, le=MAX_N, description="how many digits")
    seed: int | None = Field(None, ge=0, le=seeds.MAX_SEED, description="image i has seed + i; default: a fresh one")
    version: str | None = Field(None, description="a number, or latest; default: the best")
    scale: int = Field(1, ge=1, le=8, description="enlargement")
    columns: int | None = Field(None, ge=1, le=MAX_N, description="of the grid; default: near-square")


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", "content": {media_type: {} for media_type in FORMATS}}
}


@router.get("/generate", response_class=Response, responses=_ANSWERS)
async def get_generate(
    order: Annotated[Order, Query()],
    generators: GeneratorsDep,
    engine: EngineDep,
    accept: Annotated[str, Header()] = "*/*",
) -> Response:
    """As POST; cacheable when a seed is given, for ever when a version number is given too."""
    response = await _answer(order, generators, engine, accept)
    if order.seed is None:
        caching = "no-store"
    elif order.version in (None, LATEST):
        caching = "public, max-age=60"  # another version may answer soon
    else:
        caching = "public, max-age=31536000, immutable"
    response.headers["Cache-Control"] = caching
    return response


@router.post("/generate", response_class=Response, responses=_ANSWERS)
async def post_generate(
    order: Annotated[Order, Query()],
    generators: GeneratorsDep,
    engine: EngineDep,
    accept: Annotated[str, Header()] = "*/*",
) -> Response:
    """Draw ``n`` digits; ``Accept`` chooses PNG (a grid), WebP, ZIP (a PNG an image) or JSON."""
    return await _answer(order, generators, engine, accept)


async def _answer(order: Order, generators: Generators, engine: Engine, accept: str) -> Response:
    media_type = _negotiate(accept)
    generator = generators.get(order.arch, order.version)
    seed = seeds.fresh() if order.seed is None else order.seed
    try:
        body = await engine.run(lambda: FORMATS[media_type](_picture(generator, order, seed)))
    except ImpossiblePictureError as error:
        raise Unprocessable(str(error), field="scale") from error
    return Response(
        body,
        media_type=media_type,
        headers={
            "X-Arch": generator.manifest.arch,
            "X-Version": str(generator.manifest.version),
            "X-Seed": str(seed),
            "Vary": "Accept",
        },
    )


def _picture(generator: Generator, order: Order, seed: int) -> Picture:
    return Picture(
        images=generator.draw(seed, order.n).numpy(),
        arch=generator.manifest.arch,
        version=generator.manifest.version,
        seed=seed,
        sha256=generator.sha256,
        scale=order.scale,
        columns=order.columns,
    )


def _negotiate(accept: str) -> str:
    supported = list(reversed(FORMATS))  # of equals, mimeparse takes the last
    try:
        chosen: str = mimeparse.best_match(supported, accept)
    except mimeparse.MimeTypeParseException:
        chosen = ""
    if not chosen:
        raise NotAcceptable(f"none of {accept!r} can be made", field="Accept", bound=list(FORMATS))
    return chosen
