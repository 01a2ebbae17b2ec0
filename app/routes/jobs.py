"""``/train`` and ``/jobs``: queue a training, follow it, cancel it."""

import logging
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Response, status
from fastapi.sse import EventSourceResponse, ServerSentEvent
from kombu.exceptions import OperationalError

from app.dependencies import TrainingDep, json_body
from app.errors import Conflict, Unavailable, Unknown, Unprocessable
from worker.jobs import ENDED, Job, JobState, KeyReusedError, TrainRequest, follow

logger = logging.getLogger(__name__)

MAX_LISTED = 1_000

router = APIRouter(tags=["train"])


@router.post("/train", status_code=status.HTTP_202_ACCEPTED, dependencies=[Depends(json_body)])
async def train(
    request: TrainRequest,
    training: TrainingDep,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Job:
    """Queue a training job. The same ``Idempotency-Key`` and body give the same job for a day."""
    try:
        job, new = await training.ask(training.jobs.create, request, idempotency_key)
    except KeyReusedError:
        raise Unprocessable("this key came before with another body; use a new key", field="Idempotency-Key") from None
    if new:
        try:
            await training.ask(training.publisher.wake, job.id)
        except (OperationalError, Unavailable) as error:  # the job is recorded: the reconciler will
            logger.warning("job %s is queued, but no worker could be told: %s", job.id, error)
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


@router.get("/jobs")
async def list_jobs(training: TrainingDep, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100) -> list[Job]:
    """The newest jobs, newest first. Jobs that have ended are kept for 30 days."""
    return await training.ask(training.jobs.newest, limit)


async def _job(job_id: str, training: TrainingDep) -> Job:
    return _known(await training.ask(training.jobs.get, job_id), job_id)


JobDep = Annotated[Job, Depends(_job)]


@router.get("/jobs/{job_id}")
async def get_job(job: JobDep) -> Job:
    """A job: its state, epoch, losses, time to go, how often its worker was lost, the version it made."""
    return job


@router.delete("/jobs/{job_id}", responses={202: {"model": Job, "description": "asked to stop"}})
async def cancel_job(job_id: str, training: TrainingDep, response: Response) -> Job:
    """Cancel: at once (200) when queued; a running job is asked to stop (202)."""
    job = _known(await training.ask(training.jobs.cancel, job_id), job_id)
    if job.state in (JobState.SUCCEEDED, JobState.FAILED):
        raise Conflict(f"the job has {job.state.value} already")
    if job.state is not JobState.CANCELED:
        response.status_code = status.HTTP_202_ACCEPTED
    return job


async def _start(
    job: JobDep,
    training: TrainingDep,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,19}(-\d{1,19})?$")] = None,
) -> str:
    """The id of the event after which a stream begins; a client that has seen the last one is to stay away."""
    if last_event_id is None:
        return "0"
    if await training.ask(training.jobs.last_event, job.id) == (last_event_id, ENDED):
        raise HTTPException(status.HTTP_204_NO_CONTENT)
    return last_event_id


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse)
async def job_events(
    job_id: str, training: TrainingDep, start: Annotated[str, Depends(_start)]
) -> AsyncIterator[ServerSentEvent]:
    """What happens to a job, as server-sent events, from its first one or after ``Last-Event-ID``.

    The events are queued, started, epoch, metric, sample (a PNG in base64), published and ended,
    after which the stream closes; the newest 1,000 are kept. A client that comes again after the
    last one is answered with 204, on which browsers stop.
    """
    async for event in follow(training.events, job_id, start):
        if event:
            yield ServerSentEvent(id=event.id, event=event.kind, data=event.data)


def _known(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise Unknown(f"there is no job {job_id}", field="job_id")
    return job
