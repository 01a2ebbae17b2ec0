"""How pictures are asked for and answered.

They are made by engine or studio, before a deadline, and not again for a client that has them.
"""

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.album import Album
from app.caching import make_etag, matches
from app.calls import DATA_POLICY, get_call
from app.dependencies import Resources, ResourcesDep
from app.engine import Drawing
from app.rendering import Images
from app.routes.classes import join_lines
from app.waiting import Deadline, wait_for
from models import seeds
from models.manifest import Manifest

T = TypeVar("T")

PNG, WEBP, SVG = "image/png", "image/webp", "image/svg+xml"

# Content-Security-Policy: matplotlib writes styles into its figures, and without them they are black.
SVG_POLICY = DATA_POLICY + b"; style-src 'unsafe-inline'"

Seed = Annotated[int, Field(ge=0, le=seeds.MAX_SEED)]


class PictureQuery(BaseModel):
    """What every picture has in its query."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: int = Field(1, ge=1, le=8, description="enlargement factor")


class Answering:
    """One request, and what it may use until its deadline."""

    def __init__(self, request: Request, resources: Resources) -> None:
        self._request = request
        self._resources = resources
        self._deadline = Deadline.after(resources.deadline_seconds)

    async def work(self, piece: Callable[[Album], T], name: str = "") -> T:
        """What the studio makes, as :meth:`app.studio.Studio.submit` does.

        Raises:
            StudioBusyError: too much is waiting.
            TooLateError, ClientDisconnect: as :func:`app.waiting.wait_for`.
        """
        return await wait_for(self._resources.studio.submit(piece, name), self._request, self._deadline)

    async def draw(
        self, drawing: Drawing, seeds: Sequence[int], encode: Callable[[Images], T], *, apart: bool = False
    ) -> T:
        """What the engine draws and encodes, as :meth:`app.engine.Engine.submit` does.

        Raises:
            EngineBusyError: too much is waiting.
            TooLateError, ClientDisconnect: as :func:`app.waiting.wait_for`.
        """
        await get_call(self._request.scope).take_images(len(seeds), "seeds")
        drawn = self._resources.engine.submit(drawing, seeds, encode, apart=apart)
        return await wait_for(drawn, self._request, self._deadline)

    async def answer(
        self,
        make: Callable[[str], Awaitable[bytes]],
        *,
        media_type: str,
        facts: Sequence[object],
        freshness: str,
        by: Manifest | None = None,
    ) -> Response:
        """What ``make`` gives of its tag; a 304 if the client has it already.

        ``facts`` are all that it depends on, ``freshness`` is for ``Cache-Control``, and ``by`` the version that drew.
        """
        etag = make_etag(media_type, *facts)
        headers = {"ETag": etag, "Cache-Control": freshness}
        if media_type == SVG:
            get_call(self._request.scope).policy = SVG_POLICY
        if by:
            headers |= {"X-Arch": by.arch, "X-Version": str(by.version)}
        if matches(join_lines(self._request, "if-none-match"), etag):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(await make(etag), media_type=media_type, headers=headers)


async def _begin(request: Request, resources: ResourcesDep) -> Answering:
    return Answering(request, resources)


AnsweringDep = Annotated[Answering, Depends(_begin)]
