"""``/generate``: a picture of digits, drawn now."""

import asyncio
import hashlib
import logging
import platform
from functools import lru_cache, partial
from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated, Any

import mimeparse
import torch
from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from app import errors
from app.dependencies import resources_of
from app.errors import Late, NotAcceptable, Unknown, Unprocessable
from app.generators import LATEST, Generator
from app.rendering import FORMATS, Images, ImpossiblePictureError, Picture
from models import seeds
from worker.recipes import ArchName

logger = logging.getLogger(__name__)

PATH = "/generate"
MAX_N = 1024
PATIENCE_SECONDS = 0.1  # for an answer, until it is watched whether the client is still there

# What decides over the last bits of a picture, beside what is asked for.
_BUILD = (
    *(version(name) for name in ("digits", "torch", "pillow")),
    platform.machine(),
    torch.backends.cpu.get_cpu_capability(),
)


class Order(BaseModel):
    """The query of ``/generate``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: ArchName
    n: int = Field(16, ge=1, le=MAX_N, description="how many digits")
    seed: int | None = Field(None, ge=0, le=seeds.MAX_SEED, description="image i has seed + i; default: a fresh one")
    version: str | None = Field(None, description="a number, or latest; default: the best")
    scale: int = Field(1, ge=1, le=8, description="enlargement")
    columns: int | None = Field(None, ge=1, le=MAX_N, description="of the grid; default: near-square")


router = APIRouter(tags=["generate"])

OrderQuery = Annotated[Order, Query()]
Accept = Annotated[str, Header()]

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", "content": {media_type: {} for media_type in FORMATS}}
}


@router.get(PATH, response_class=Response, responses={**_ANSWERS, 304: {"description": "as you have it"}})
async def get_generate(order: OrderQuery, request: Request, accept: Accept = "*/*") -> Response:
    """As POST; cacheable when a seed is given, for ever when a version number is given too."""
    media_type, generator = await _chosen(order, request, accept)
    if order.seed is None:
        response = await _drawn(order, request, media_type, generator)
        response.headers["Cache-Control"] = "no-store"
        return response
    etag = _etag(order, media_type, generator)
    if _matches(request.headers.get("if-none-match"), etag):
        response = Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"Vary": "Accept"})
    else:
        response = await _drawn(order, request, media_type, generator)
    response.headers["ETag"] = etag
    newest = order.version in (None, LATEST)  # another version may answer soon
    response.headers["Cache-Control"] = "public, max-age=60" if newest else "public, max-age=31536000, immutable"
    return response


@router.post(PATH, response_class=Response, responses=_ANSWERS)
async def post_generate(order: OrderQuery, request: Request, accept: Accept = "*/*") -> Response:
    """Draw ``n`` digits; ``Accept`` chooses PNG (a grid), WebP, ZIP (a PNG an image) or JSON."""
    return await _drawn(order, request, *await _chosen(order, request, accept))


class ShortCut:
    """Answers ``/generate`` with the functions above, all else with ``app``.

    What FastAPI does on the way to routes of any kind takes several times as long as all else that is
    HTTP about a small picture: docs/measurements.md.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] not in _ENDPOINTS:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        request = Request(scope, receive)
        try:
            order, accept = _order(scope["query_string"]), request.headers.get("accept", "*/*")
            response = await _ENDPOINTS[scope["method"]](order, request, accept)
        except HTTPException as error:
            response = errors.http_error(error)
        except RequestValidationError as error:
            response = errors.bad_input(error)
        except Exception:
            logger.exception("cannot answer %s", request.url)
            response = errors.our_fault()
        await response(scope, receive, send)


@lru_cache  # many ask for the same without a seed
def _order(query: bytes) -> Order:
    try:
        return Order.model_validate(dict(QueryParams(query)))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise RequestValidationError([{**item, "loc": ("query", *item["loc"])} for item in problems]) from None


_ENDPOINTS = {"GET": get_generate, "POST": post_generate}


async def _chosen(order: Order, request: Request, accept: str) -> tuple[str, Generator]:
    """The media type and the generator of an answer."""
    media_type, generators = _negotiate(accept), resources_of(request).generators
    try:
        return media_type, generators.get(order.arch, order.version)
    except Unknown:
        if order.version in (None, LATEST):
            raise
    await generators.look_again()  # a version with a number may be a moment old
    return media_type, generators.get(order.arch, order.version)


async def _drawn(order: Order, request: Request, media_type: str, generator: Generator) -> Response:
    seed = seeds.fresh() if order.seed is None else order.seed
    resources = resources_of(request)
    answer = resources.engine.submit(generator, seed, order.n, partial(_encode, media_type, order, generator, seed))
    try:
        body = await _in_time(answer, request, resources.deadline_seconds)
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


async def _in_time(answer: asyncio.Future[bytes], request: Request, seconds: float) -> bytes:
    """The answer, if it comes before its deadline and before the client goes.

    Raises:
        Late: it does not.
    """
    loop = asyncio.get_running_loop()
    watch: list[asyncio.Task[None]] = []
    timer = loop.call_later(PATIENCE_SECONDS, lambda: watch.append(loop.create_task(_watch(answer, request, seconds))))
    try:
        return await answer
    finally:
        timer.cancel()
        for task in watch:
            task.cancel()


async def _watch(answer: asyncio.Future[bytes], request: Request, seconds: float) -> None:
    """End the waiting for an answer that nobody waits for any more, or for too long."""
    error: Exception
    try:
        async with asyncio.timeout(seconds - PATIENCE_SECONDS):
            while (await request.receive())["type"] != "http.disconnect":
                pass
        error = Late("the client has gone")  # which nobody reads
    except TimeoutError:
        error = Late(f"no answer within {seconds:g} s; try again later, or with fewer digits")
    except HTTPException as refused:  # what came with the request
        error = refused
    if not answer.done():
        answer.set_exception(error)


def _encode(media_type: str, order: Order, generator: Generator, seed: int, images: Images) -> bytes:
    return FORMATS[media_type](
        Picture(
            images=images,
            arch=generator.manifest.arch,
            version=generator.manifest.version,
            seed=seed,
            sha256=generator.sha256,
            scale=order.scale,
            columns=order.columns,
        )
    )


def _etag(order: Order, media_type: str, generator: Generator) -> str:
    """Of all that the bytes of a seeded answer depend on."""
    manifest = generator.manifest
    facts = (
        *_BUILD, generator.inference.device, media_type, manifest.version, manifest.latents, generator.sha256,
        order.model_dump(exclude={"version"}),
    )  # fmt: skip
    return f'"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"'


def _matches(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110, 13.1.2: a list of tags, weak or strong, or ``*``."""
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or tags == ["*"]


@lru_cache
def _negotiate(accept: str) -> str:
    supported = list(reversed(FORMATS))  # of equals, mimeparse takes the last
    try:
        chosen: str = mimeparse.best_match(supported, accept)
    except mimeparse.MimeTypeParseException:
        chosen = ""
    if not chosen:
        raise NotAcceptable(f"none of {accept!r} can be made", field="Accept", bound=list(FORMATS))
    return chosen
