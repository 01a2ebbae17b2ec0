"""``/datasets``: a labelled data set, streamed while it is made."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.calls import get_call
from app.datasets import DatasetOrder
from app.dependencies import ResourcesDep
from app.errors import UnprocessableError
from app.openapi import Described, describe_headers, describe_problems
from app.routes.classes import JsonRoute
from app.waiting import TooLateError
from models.seed_index import TooFewError

logger = logging.getLogger(__name__)

router = APIRouter(tags=["datasets"], route_class=JsonRoute)

_ANSWERS: Described = {
    200: {
        "description": "the data set: a ZIP, or for npz an archive of arrays, which is a ZIP too",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        "headers": describe_headers(
            X_Arch="the architecture that drew", X_Version="its version", Content_Disposition="a name for the file"
        ),
    },
    **describe_problems(404, 415, 429, 504),
}


class DatasetResponse(StreamingResponse):
    """A body that ends if its client takes nothing for ``deadline_seconds``."""

    media_type = "application/zip"

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes], deadline_seconds: float, **options: Any) -> None:
        super().__init__(_chain(first, rest), **options)
        self._rest = rest
        self._deadline_seconds = deadline_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):  # also if its client has gone before the first piece
            try:
                await super().__call__(scope, receive, send)
            except (TimeoutError, TooLateError, TooFewError) as error:  # the server closes the connection
                logger.warning("a data set is broken off: %s", error or "its client takes nothing")

    async def stream_response(self, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            async with asyncio.timeout(self._deadline_seconds):
                await send(message)

        await super().stream_response(send_soon)


@router.post("/datasets", response_class=StreamingResponse, responses=_ANSWERS)
async def make_dataset(order: DatasetOrder, request: Request, resources: ResourcesDep) -> DatasetResponse:
    """Exactly ``per_class`` digits of each class, with labels. The same request gives the same bytes.

    Labels are what two classifiers read, at ``min_confidence`` or more. For more than 10,000 a class, there is
    `digits dataset`.
    """
    loaded = await resources.generators.find(order.arch, order.version)
    resources.exporter.require_place()
    await get_call(request.scope).take_images(10 * order.per_class, "per_class")
    pieces = resources.exporter.export(order, loaded)
    try:
        first = await anext(pieces)  # what cannot be made is an error instead of half a file
    except TooFewError as error:
        raise UnprocessableError(str(error), field="per_class", bound={"le": error.found}) from None
    said = loaded.manifest
    ending = "npz" if order.format == "npz" else "zip"
    name = f"{said.arch}-v{said.version}-{order.format}-{order.per_class}-per-class-seed{order.seed}.{ending}"
    return DatasetResponse(
        first,
        pieces,
        resources.deadline_seconds,
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Arch": said.arch,
            "X-Version": str(said.version),
        },
    )


async def _chain(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for piece in rest:
        yield piece
