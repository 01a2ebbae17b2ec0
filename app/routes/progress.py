"""What a job has learned until now: a picture and curves, of its events or of the version that it made."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from app.album import Album
from app.curves import draw_curves, keep_complete
from app.dependencies import JobQueueDep, ResourcesDep
from app.entries import Entry, UnknownVersionError
from app.epochs import decode_picture, list_pictures, list_records
from app.errors import NotFoundError
from app.generators import Generators
from app.openapi import describe_cached, describe_problems
from app.rendering import Images, encode_grid
from app.routes.answers import PNG, SVG, Answering, AnsweringDep
from app.routes.jobs import JobDep, read_events
from app.routes.learning import EpochQuery
from worker.jobs import Job
from worker.recipes import NoRecipeError, find_recipe

SHOWN = 16  # images of an epoch: an event has no more
COLUMNS = 4

_FRESHNESS = "no-cache"  # a client asks each time whether there is a newer one
_PROBLEMS = describe_problems(404, 429, 503, 504)

router = APIRouter(prefix="/jobs/{job_id}", tags=["pictures"])


@router.get("/samples.png", response_class=Response, responses={**describe_cached(PNG), **_PROBLEMS})
async def get_job_samples(
    job: JobDep,
    query: Annotated[EpochQuery, Query()],
    queue: JobQueueDep,
    resources: ResourcesDep,
    answering: AnsweringDep,
) -> Response:
    """16 images that a job drew after an epoch; by default the newest ones. Every epoch shows the same latents.

    A running job has pictures of its newest 100 epochs. One that has made a version has those of all epochs, in
    a process that finds the version; in another, the last one.
    """
    pictures: Mapping[int, Images | str] | None = await _find_samples(job, resources.generators, answering)
    if pictures is None:
        pictures = list_pictures(await read_events(job, queue))
    epoch = query.epoch or max(pictures, default=0)
    if epoch not in pictures:
        raise NotFoundError(_name_epochs(pictures), field="epoch", bound={"epochs": list(pictures)})
    picture = pictures[epoch]

    def draw(_: Album) -> bytes:
        try:
            images = decode_picture(picture) if isinstance(picture, str) else picture
        except (ValueError, OSError, SyntaxError) as error:  # Pillow raises each of them
            detail = f"the picture of epoch {epoch} is damaged: {error}"
            raise NotFoundError(detail, field="epoch", bound={"epochs": list(pictures)}) from error
        return encode_grid(images, COLUMNS, query.scale, {"arch": job.arch, "job": job.id, "epoch": str(epoch)})

    content = picture if isinstance(picture, str) else picture.tobytes()
    return await answering.answer(
        partial(answering.work, draw),
        media_type=PNG,
        facts=(job.id, epoch, query.scale, content),
        freshness=_FRESHNESS,
    )


@router.get("/curves.svg", response_class=Response, responses={**describe_cached(SVG), **_PROBLEMS})
async def get_job_curves(job: JobDep, queue: JobQueueDep, resources: ResourcesDep, answering: AnsweringDep) -> Response:
    """Losses, the discriminator's output, and the earth mover's distance, by epoch, of the epochs until now."""
    history = await _find_history(job, resources.generators, answering)
    if history is None:
        history = list_records(await read_events(job, queue))
    history = keep_complete(history)
    if not history:
        raise NotFoundError("the job has not finished an epoch yet", field="job_id")

    def draw(_: Album) -> bytes:
        return draw_curves(f"{job.arch}, {job.recipe}, job {job.id[:8]}", _describe_recipe(job), history)

    return await answering.answer(
        partial(answering.work, draw), media_type=SVG, facts=(job.id, history), freshness=_FRESHNESS
    )


async def _find_samples(job: Job, generators: Generators, answering: Answering) -> Mapping[int, Images] | None:
    """The images of all epochs of the version that a job made; None if this process cannot read it."""
    try:
        entry = await _find_version(job, generators)
        epochs = await answering.work(lambda album: album.read_samples(entry))
    except UnknownVersionError:
        return None
    return {number: images[:SHOWN] for number, images in enumerate(epochs, start=1)}


async def _find_history(job: Job, generators: Generators, answering: Answering) -> list[dict[str, Any]] | None:
    """The history of the version that a job made; None if this process cannot read it."""
    try:
        entry = await _find_version(job, generators)
        return await answering.work(lambda album: album.read_history(entry))
    except UnknownVersionError:
        return None


async def _find_version(job: Job, generators: Generators) -> Entry:
    """The version that a job made.

    Raises:
        UnknownVersionError: it made none, or this process does not find it.
    """
    if job.version is None:
        raise UnknownVersionError("the job has made no version")
    entry = await generators.find_entry(job.arch, str(job.version))
    entry.require_usable()
    if entry.manifest is None or entry.manifest.job != job.id:
        raise UnknownVersionError("this model directory is not the one of the job")
    return entry


def _name_epochs(pictures: Mapping[int, object]) -> str:
    if not pictures:
        return "the job has no picture yet"
    first, last = min(pictures), max(pictures)
    return f"the job has no picture of this epoch; it has {len(pictures)}, of epochs from {first} to {last}"


def _describe_recipe(job: Job) -> dict[str, Any]:
    """The recipe of a job as a manifest has it; its name alone if this release does not know it."""
    try:
        return asdict(find_recipe(job.recipe, job.arch))
    except NoRecipeError:
        return {"name": job.recipe}
