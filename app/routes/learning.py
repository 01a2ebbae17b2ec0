"""What a version has learned, epoch by epoch: pictures, an animation, curves, and the record itself."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import pydantic_core
from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from app import animations
from app.album import Album
from app.caching import choose_freshness
from app.curves import draw_curves, keep_complete
from app.dependencies import ResourcesDep
from app.entries import Entry
from app.errors import NotFoundError, UnprocessableError
from app.openapi import BY_VERSION, EPOCHS, describe_cached, describe_problems
from app.rendering import encode_grid, make_grid, measure_grid, require_possible
from app.routes.answers import PNG, SVG, WEBP, Answering, AnsweringDep, PictureQuery
from app.routes.classes import JSON
from app.routes.models import require_arch
from models.manifest import HISTORY, SAMPLES
from worker.jobs import MAX_EPOCHS

MAX_FRAMES = 60  # of an animation
FRAME_MS, LAST_FRAME_MS = 80, 2_000

_PROBLEMS = describe_problems(404, 429, 504)

router = APIRouter(prefix="/models/{arch}/{version}", tags=["pictures"])


class EpochQuery(PictureQuery):
    """The query of ``samples.png``."""

    epoch: int | None = Field(None, ge=1, le=MAX_EPOCHS, description="after which epoch; default: the last one")


class Record:
    """A version whose files are asked for, and how to answer."""

    def __init__(self, entry: Entry, asked: str, answering: Answering) -> None:
        self.entry = entry
        self._asked = asked
        self._answering = answering

    @property
    def facts(self) -> dict[str, str]:
        return {"arch": self.entry.arch, "version": str(self.entry.version)}

    async def answer(self, media_type: str, file: str, query: object, piece: Callable[[Album], bytes]) -> Response:
        """What the studio makes of one ``file`` of the version."""
        assert self.entry.manifest
        said = self.entry.manifest
        return await self._answering.answer(
            partial(self._answering.work, piece),
            media_type=media_type,
            facts=(said.arch, said.version, said.recipe, said.files.get(file), query),
            freshness=choose_freshness(self._asked),
            by=said,
        )


async def _find_record(arch: str, version: str, resources: ResourcesDep, answering: AnsweringDep) -> Record:
    require_arch(arch)
    entry = await resources.generators.find_entry(arch, version)
    entry.require_usable()
    return Record(entry, version, answering)


RecordDep = Annotated[Record, Depends(_find_record)]


@router.get("/samples.png", response_class=Response, responses={**describe_cached(PNG, BY_VERSION), **_PROBLEMS})
async def get_version_samples(record: RecordDep, query: Annotated[EpochQuery, Query()]) -> Response:
    """A near-square grid of images that were drawn after an epoch. Every epoch shows the same latents."""

    def draw(album: Album) -> bytes:
        epochs = album.read_samples(record.entry)
        epoch = query.epoch or len(epochs)
        if epoch > len(epochs):
            detail = f"Input should be at most {len(epochs)}: the version has no later epochs"
            raise UnprocessableError(detail, field="epoch", bound={"ge": 1, "le": len(epochs)})
        images = epochs[epoch - 1]
        require_possible(PNG, measure_grid(len(images), None, query.scale))
        return encode_grid(images, None, query.scale, record.facts | {"epoch": str(epoch)})

    return await record.answer(PNG, SAMPLES, query, draw)


@router.get("/evolution.webp", response_class=Response, responses={**describe_cached(WEBP, BY_VERSION), **_PROBLEMS})
async def get_evolution(record: RecordDep, query: Annotated[PictureQuery, Query()]) -> Response:
    """The pictures of ``samples.png`` as an animation: up to 60 epochs, the first and the last among them."""

    def draw(album: Album) -> bytes:
        epochs = album.read_samples(record.entry)
        chosen = animations.choose_frames(len(epochs), MAX_FRAMES)
        animations.require_possible(len(chosen), measure_grid(epochs.shape[1], None, query.scale))
        frames = [make_grid(epochs[index], None, query.scale) for index in chosen]
        return animations.encode_animation(frames, [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS])

    return await record.answer(WEBP, SAMPLES, query, draw)


@router.get("/curves.svg", response_class=Response, responses={**describe_cached(SVG, BY_VERSION), **_PROBLEMS})
async def get_version_curves(record: RecordDep) -> Response:
    """Losses, the discriminator's output, and the earth mover's distance, by epoch."""

    def draw(album: Album) -> bytes:
        said = record.entry.manifest
        assert said
        history = keep_complete(album.read_history(record.entry))
        if not history:
            why = "it was imported" if said.imported else "its history has no losses"
            raise NotFoundError(f"version {said.version} of {said.arch} has no curves: {why}", field="version")
        return draw_curves(f"{said.arch} {said.version}, {said.recipe_name}", said.recipe, history)

    return await record.answer(SVG, HISTORY, None, draw)


@router.get("/history", response_class=Response, responses={**describe_cached(JSON, BY_VERSION, EPOCHS), **_PROBLEMS})
async def get_history(record: RecordDep) -> Response:
    """The record of each epoch; an empty list for an imported version."""
    return await record.answer(
        JSON, HISTORY, None, lambda album: pydantic_core.to_json(album.read_history(record.entry), inf_nan_mode="null")
    )
