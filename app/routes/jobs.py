"""``/train`` and ``/jobs``: queue a training, follow it, cancel it.

Plain functions, so that FastAPI runs them in threads: waiting for Redis never holds up the event
loop.
"""

import contextlib
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response, status
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.dependencies import TrainingDep, json_body
from app.errors import Conflict, Unknown, Unprocessable
from worker.jobs import Job, JobState, KeyReusedError, TrainRequest

MAX_LISTED = 1_000

router = APIRouter(tags=["train"])


@router.post("/train", status_code=status.HTTP_202_ACCEPTED, dependencies=[Depends(json_body)])
def train(
    request: TrainRequest,
    training: TrainingDep,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Job:
    """Queue a training job. The same ``Idempotency-Key`` and body give the same job for a day."""
    try:
        job, new = training.jobs.create(request, idempotency_key)
    except KeyReusedError:
        raise Unprocessable("this key came before with another body; use a new key", field="Idempotency-Key") from None
    if job.state is JobState.QUEUED:
        try:
            training.publisher.wake(job.id)
        except OperationalError:
            if new:  # forget it if Redis still answers: a second try shall not train twice
                with contextlib.suppress(RedisError):
                    training.jobs.discard(job.id)
            raise
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


@router.get("/jobs")
def list_jobs(training: TrainingDep, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100) -> list[Job]:
    """The newest jobs, newest first."""
    return training.jobs.newest(limit)


@router.get("/jobs/{job_id}")
def get_job(job_id: str, training: TrainingDep) -> Job:
    """A job: its state, epoch, losses, time to go, and the version it made."""
    return _known(training.jobs.get(job_id), job_id)


@router.delete("/jobs/{job_id}", responses={202: {"model": Job, "description": "asked to stop"}})
def cancel_job(job_id: str, training: TrainingDep, response: Response) -> Job:
    """Cancel: at once (200) when queued; a running job is asked to stop (202)."""
    job = _known(training.jobs.cancel(job_id), job_id)
    if job.state in (JobState.SUCCEEDED, JobState.FAILED):
        raise Conflict(f"the job has {job.state.value} already")
    if job.state is JobState.RUNNING:
        response.status_code = status.HTTP_202_ACCEPTED
    return job


def _known(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise Unknown(f"there is no job {job_id}", field="job_id")
    return job
