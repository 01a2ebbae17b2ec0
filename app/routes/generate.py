"""``/generate``: a picture of digits, drawn on demand."""

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated

import mimeparse
from fastapi import APIRouter, Header, Query, Request, Response
from starlette.requests import ClientDisconnect

from app.caching import choose_freshness, make_etag, matches
from app.calls import get_call
from app.dependencies import Resources, get_resources
from app.entries import LoadedVersion
from app.errors import NotAcceptableError, UnprocessableError
from app.middleware.methods import IS_HEAD
from app.openapi import Described, describe_headers, describe_pictures, describe_problems
from app.orders import Order
from app.rendering import FORMATS, Encoder, can_hold, join_seeds, measure_picture
from app.routes.answers import PNG
from app.routes.classes import DirectRoute, join_lines
from app.values import find_seeds
from app.waiting import Deadline, wait_for
from models import readers
from models.readers import Reading
from models.seed_index import TooFewError

MAX_NAMED = 64  # seeds in a header
ALL = tuple(FORMATS)

_HEADERS = describe_headers(
    X_Arch="the architecture that drew",
    X_Version="its version",
    X_Seed="given as seed, it repeats the answer",
    X_Seeds=f"the seeds of all digits, as 5,17,3, up to {MAX_NAMED}",
    Vary="Accept",
)
_CACHED = describe_headers(ETag="of what the bytes depend on; if a seed is given", Cache_Control="for how long")

_ANSWERS: Described = {
    200: {"description": "the picture", "content": describe_pictures(), "headers": _HEADERS},
    **describe_problems(404, 406, 429, 504),
}
_CACHED_ANSWERS: Described = {
    **_ANSWERS,
    200: {**_ANSWERS[200], "headers": {**_HEADERS, **_CACHED}},
    304: {"description": "the picture that ``If-None-Match`` names has not changed", "headers": _CACHED},
}


OrderQuery = Annotated[Order, Query()]
Accept = Annotated[str, Header(include_in_schema=False)]  # OpenAPI describes it by the bodies of an answer

router = APIRouter(tags=["generate"], route_class=DirectRoute)


@router.post("/generate", response_class=Response, responses=_ANSWERS)
async def post_generate(order: OrderQuery, request: Request, accept: Accept = "*/*") -> Response:
    """Draw ``n`` digits. ``Accept`` chooses PNG or WebP (a grid), ZIP (one PNG per image) or JSON."""
    resources, media_type = await get_resources(request), _choose_format(accept, order)
    return await _draw(order, request, resources, media_type, await _find_version(order, resources))


@router.get("/generate", response_class=Response, responses=_CACHED_ANSWERS)
async def get_generate(order: OrderQuery, request: Request, accept: Accept = "*/*") -> Response:
    """As POST. An answer can be cached if a seed is given, and for a day if a version number is given too."""
    resources, media_type = await get_resources(request), _choose_format(accept, order)
    loaded = await _find_version(order, resources)
    if order.seed is None:
        response = await _draw(order, request, resources, media_type, loaded)
        response.headers["Cache-Control"] = "no-store"
        return response
    etag = _tag(order, media_type, loaded)
    if matches(join_lines(request, "if-none-match"), etag):
        response = Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"Vary": "Accept"})
    else:
        response = await _draw(order, request, resources, media_type, loaded)
    response.headers["ETag"] = etag
    response.headers["Cache-Control"] = choose_freshness(order.version)
    return response


async def _find_version(order: Order, resources: Resources) -> LoadedVersion:
    return await resources.generators.find(order.arch, order.version)


async def _draw(
    order: Order, request: Request, resources: Resources, media_type: str, loaded: LoadedVersion
) -> Response:
    manifest = loaded.manifest
    deadline = Deadline.after(resources.deadline_seconds)
    is_taken = False

    async def take_images() -> None:
        nonlocal is_taken
        if not is_taken:
            is_taken = True
            await get_call(request.scope).take_images(len(order.wanted) or order.count, order.asked or "n")

    async def read(some: Sequence[int]) -> Reading:
        await take_images()  # to find the seeds of a few digits, many images may be drawn
        deadline.require_time()
        if await request.is_disconnected():
            raise ClientDisconnect
        return await wait_for(resources.engine.submit(loaded, some, readers.read, apart=True), request, deadline)

    try:
        first, each = await find_seeds(order, index=lambda: resources.indexes.find(manifest), read=read)
    except TooFewError as error:
        raise UnprocessableError(str(error), field=order.asked, bound={"le": error.found}) from None
    encoder = Encoder(
        media_type, manifest, each, order.scale, order.across, order.line, resources.indexes.peek(manifest)
    )
    encoder.require_possible()
    headers = {
        "X-Arch": manifest.arch,
        "X-Version": str(manifest.version),
        "X-Seed": str(first),
        "Vary": "Accept",
    }
    if len(each) <= MAX_NAMED:
        headers["X-Seeds"] = join_seeds(each, ",")
    if IS_HEAD in request.scope:  # nothing is drawn, so nobody knows how long the body would be
        response = Response(media_type=media_type, headers=headers)
        del response.headers["content-length"]
        return response
    await take_images()
    answer = resources.engine.submit(loaded, each, encoder, apart=encoder.is_large())
    body = await wait_for(answer, request, deadline)
    return Response(body, media_type=media_type, headers=headers)


def _tag(order: Order, media_type: str, loaded: LoadedVersion) -> str:
    """A tag of everything that the bytes of a seeded answer depend on."""
    return make_etag(readers.sha256(), media_type, *loaded.facts, order.model_dump(exclude={"version"}))


def _choose_format(accept: str, order: Order) -> str:
    """The media type that fits an ``Accept`` header best, of those that can hold the picture.

    Browsers prefer WebP, which holds less than PNG, and take other pictures, too.

    Raises:
        NotAcceptableError: none fits.
    """
    chosen = _match(accept, ALL)
    if not chosen:
        raise NotAcceptableError(f"none of {accept!r} can be made", field="Accept", bound=list(FORMATS))
    if chosen == PNG:  # nothing holds more
        return chosen
    size = measure_picture(len(order.wanted) or order.count, order.across, order.scale, order.line)
    if can_hold(chosen, size):
        return chosen
    others = tuple(name for name in FORMATS if can_hold(name, size))
    return _match(accept, others) or chosen  # which is refused then, and the error names its bound


@lru_cache
def _match(accept: str, formats: Sequence[str]) -> str:
    """The one of some media types that fits an ``Accept`` header best; empty if none fits."""
    supported = list(reversed(formats))  # if several fit equally, mimeparse takes the last
    try:
        chosen: str = mimeparse.best_match(supported, accept.lower())
    except mimeparse.MimeTypeParseException:
        return ""
    return chosen
