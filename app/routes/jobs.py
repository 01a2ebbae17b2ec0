"""``/train`` and ``/jobs``: queue a training, follow it, cancel it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Query, Request, Response, status
from fastapi.responses import StreamingResponse
from kombu.exceptions import OperationalError
from pydantic import BaseModel, ConfigDict, Field

from app.audit import audit
from app.calls import get_call
from app.dependencies import ANSWER_SECONDS, JobQueue, JobQueueDep
from app.errors import REDIS_AWAY, ConflictError, NotFoundError, UnavailableError, UnprocessableError
from app.events import Feed
from app.keys import Scope
from app.openapi import EVENT, Described, describe_headers, describe_problems
from app.routes.classes import JsonRoute
from worker.jobs import MAX_EVENTS, Event, Job, JobState, Sender, TrainRequest

logger = logging.getLogger(__name__)

MAX_LISTED = 1_000

_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no proxy keeps events back


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


router = APIRouter(tags=["train"], route_class=JsonRoute)


_LINK = {"parameters": {"job_id": "$response.body#/id"}}

_ACCEPTED: Described = {
    202: {
        "description": "the job is queued",
        "headers": describe_headers(Location="of the job"),
        "links": {
            "get": {"operationId": "get_job", **_LINK},
            "cancel": {"operationId": "cancel_job", **_LINK},
            "follow": {"operationId": "follow_job", **_LINK},
        },
    },
    **describe_problems(415, 429, 503),
}


@router.post("/train", status_code=status.HTTP_202_ACCEPTED, responses=_ACCEPTED)
async def train(
    order: TrainRequest,
    queue: JobQueueDep,
    request: Request,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Job:
    """Queue a training job. The same ``Idempotency-Key`` and body give the same job for a day."""
    if order.webhook and (problem := queue.receivers.find_problem(order.webhook.url)):
        raise UnprocessableError(problem, field="webhook.url", bound="a public https address")
    call = get_call(request.scope)
    sender = Sender(call.owner, queue.max_owned, call.request_id, call.traceparent)
    if call.key and idempotency_key:  # others may have the same
        idempotency_key = f"{call.key.name}:{idempotency_key}"
    job, new = await queue.ask(queue.jobs.create, order, idempotency_key, queue.max_queued, sender)
    audit("train", job=job.id, arch=job.arch, recipe=job.recipe, epochs=job.epochs, new=new)
    about = {"facts": {"job": job.id}}
    if new:
        try:
            await queue.ask(queue.publisher.wake, job.id)
        except (OperationalError, UnavailableError) as error:  # the job is recorded: the reconciler will wake one
            logger.warning("job %s is queued, but its wake-up could not be sent: %s", job.id, error, extra=about)
    if new and job.workers == 0:
        text = "job %s is queued at place %d, but no worker is alive"
        logger.warning(text, job.id, job.queue_position, extra=about)
    response.headers["Location"] = f"{request.scope['root_path']}/jobs/{job.id}"
    return job


class JobsQuery(BaseModel):
    """The query of ``GET /jobs``."""

    model_config = ConfigDict(extra="forbid")

    state: JobState | None = None
    limit: int = Field(100, ge=1, le=MAX_LISTED)
    cursor: str | None = Field(
        None, pattern=r"^[0-9]{1,12}(\.[0-9]{1,9})?_[A-Za-z0-9-]{1,64}$", description="from Link"
    )


_PAGE: Described = {
    200: {"description": "the jobs", "headers": describe_headers(Link="rel=next: the next page, if there is one")},
    **describe_problems(503),
}


@router.get("/jobs", responses=_PAGE)
async def list_jobs(
    query: Annotated[JobsQuery, Query()], queue: JobQueueDep, request: Request, response: Response
) -> list[Job]:
    """Jobs, newest first. ``Link`` names the next page: no job is missing or comes twice while new ones are queued.

    Jobs that have ended are kept for 30 days, the 1,000 that ended last.
    """
    jobs, cursor = await queue.ask(queue.jobs.list_page, query.limit, query.state, query.cursor)
    if cursor:
        following = query.model_copy(update={"cursor": cursor}).model_dump(exclude_none=True)
        response.headers["Link"] = f'<{request.scope["root_path"]}/jobs?{urlencode(following)}>; rel="next"'
    return jobs


async def _get_job(job_id: str, queue: JobQueueDep) -> Job:
    return _require_known(await queue.ask(queue.jobs.get, job_id), job_id)


JobDep = Annotated[Job, Depends(_get_job)]


@router.get("/jobs/{job_id}", responses=describe_problems(404, 503))
async def get_job(job: JobDep) -> Job:
    """A job: its state, place in the queue, epoch, losses, time left, the version that it made."""
    return job


class CancelQuery(BaseModel):
    """The query of ``DELETE /jobs/{id}``."""

    model_config = ConfigDict(extra="forbid")

    keep: bool = Field(False, description="publish the epochs that are finished")


@router.delete(
    "/jobs/{job_id}",
    responses={202: {"model": Job, "description": "asked to stop"}, **describe_problems(404, 409, 503)},
)
async def cancel_job(
    job_id: str, query: Annotated[CancelQuery, Query()], queue: JobQueueDep, request: Request, response: Response
) -> Job:
    """Cancel a job. A queued job is canceled at once (200); a running job is asked to stop (202).

    With ``keep``, the worker publishes the finished epochs as a version, which the canceled job names; if no
    epoch is finished, none. A queued job that has finished epochs waits for a worker then (202). A key without
    ``admin`` cancels only the jobs that it has queued.
    """
    call = get_call(request.scope)
    owner = call.owner if call.key and not call.key.may(Scope.ADMIN) else ""
    cancel = partial(queue.jobs.cancel, keep=query.keep, owner=owner)
    job = _require_known(await queue.ask(cancel, job_id), job_id)
    if job.state in (JobState.SUCCEEDED, JobState.FAILED):
        raise ConflictError(f"the job has {job.state.value} already")
    if query.keep and not job.keep and job.ended_at is None:
        raise ConflictError("the job was canceled before, without keep: its epochs are lost")
    if job.state is not JobState.CANCELED:
        response.status_code = status.HTTP_202_ACCEPTED
    audit("cancel", job=job.id, keep=query.keep)
    return job


async def _follow(job_id: str, queue: JobQueueDep) -> AsyncIterator[Feed]:
    """The feed of a job, with all events until now."""
    with queue.feeds.follow(job_id) as feed:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await feed.is_complete.wait()
        except TimeoutError:
            raise UnavailableError(REDIS_AWAY) from None
        if not feed.is_known:
            raise _make_unknown(job_id)
        await queue.feeds.take_turn()
        yield feed


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventStream,
    responses={
        200: {
            "description": "the events",
            "content": {EventStream.media_type: {"x-itemSchema": EVENT}},
        },
        204: {"description": "the client has seen the last event"},
        **describe_problems(404, 503),
    },
)
async def follow_job(
    feed: Annotated[Feed, Depends(_follow)],
    queue: JobQueueDep,
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,19}(-[0-9]{1,19})?$")] = None,
) -> Response:
    """Stream the events of a job as server-sent events, from the first one or after ``Last-Event-ID``.

    The events are queued, started, epoch, metric, sample (a PNG in base64), published and ended. The
    stream closes after ended. Only the newest 1,000 events are kept, 100 of those with a picture; of an
    ended job, only the last picture. A client that reconnects after the last event gets a 204, so that
    browsers stop reconnecting. One that reads too slowly for the events
    that are kept is disconnected, and may come back with ``Last-Event-ID``.
    """
    if last_event_id and feed.is_over and last_event_id == feed.last:
        return Response(status_code=status.HTTP_204_NO_CONTENT)
    return EventStream(queue.feeds.stream(feed, feed.find(last_event_id or "0")), headers=_STREAM_HEADERS)


async def read_events(job: Job, queue: JobQueue) -> list[Event]:
    """All events that are kept of a job."""
    news = (await queue.ask(queue.jobs.read_events, {job.id: "0"}, MAX_EVENTS))[job.id]
    return news.events if news else []


def _require_known(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise _make_unknown(job_id)
    return job


def _make_unknown(job_id: str) -> NotFoundError:
    return NotFoundError(f"there is no job {job_id}", field="job_id")
