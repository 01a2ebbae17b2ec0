"""Jobs and where they live: the one place that knows how a job looks in Redis.

    digits:job:<id>     hash        the record, the truth about the job; a message is a wake-up
    digits:events:<id>  stream      what has happened to it, capped
    digits:jobs         sorted set  all jobs by creation time
    digits:queued       sorted set  the queued ones by creation time
    digits:leases       sorted set  the running ones by the time when their lease runs out

Every change is one run of ``jobs.lua``, on the time of Redis, which first compares the state: two
workers cannot both take a job, and an ended job never changes. A running job is held on a lease,
under the token of its claim: where its worker is gone without a word, the lease runs out, the job
returns to the queue, and nothing that comes under an older token is taken. Must not import torch:
the API and the queue's parent process use this module.
"""

import asyncio
import hashlib
import json
import logging
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ConnectionError, TimeoutError

from models import seeds
from worker.connections import BLOCK_SECONDS
from worker.recipes import DEFAULT_RECIPE, RECIPES, ArchName, RecipeName

logger = logging.getLogger(__name__)

MAX_EPOCHS = 1_000
LEASE_SECONDS = 30  # a running job that has not reported for so long is taken for lost
MAX_LOST = 3  # so often may a job lose its worker
RECONCILE_SECONDS = 10  # between two looks for lost jobs and lost wake-ups
QUIET_SECONDS = 2 * LEASE_SECONDS  # without reaping after Redis was away: the workers report again first
WAKE_SECONDS = 30  # a queued job whose wake-up is older may get another
KEPT_SECONDS = 30 * 24 * 3600  # of an ended job
IDEMPOTENCY_SECONDS = 24 * 3600  # for how long a key names the job it made
MAX_EVENTS = 1_000  # the newest of a job
ENDED = "ended"  # the kind of a job's last event


class JobState(StrEnum):
    """queued → running → succeeded | failed | canceled."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Standing(StrEnum):
    """What a runner learns when it reports."""

    HELD = "held"
    CANCELED = "canceled"  # it is to stop
    LOST = "lost"  # its lease ran out and the job went elsewhere: it is to stop and to write nothing


class KeyReusedError(Exception):
    """An Idempotency-Key came again with another body. Use a new key."""


class TrainRequest(BaseModel):
    """The body of ``POST /train``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: ArchName
    recipe: RecipeName = RecipeName(DEFAULT_RECIPE)
    epochs: int | None = Field(
        None, strict=True, ge=1, le=MAX_EPOCHS, description="default: as many as the recipe names"
    )
    seed: int | None = Field(None, strict=True, ge=0, le=seeds.MAX_SEED, description="default: a fresh one")
    measure_every: int | None = Field(
        None,
        strict=True,
        ge=1,
        le=MAX_EPOCHS,
        description="take the metrics after every so many epochs, not only at the end",
    )


class Job(BaseModel):
    """A job as its record says it is. Losses are those of the last finished epoch."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: JobState
    arch: str
    recipe: str
    epochs: int
    seed: int
    measure_every: int | None = None  # epochs
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempt: int = 0  # how often a worker took it, less how often one gave it back
    lost_leases: int = 0  # how often its worker was lost
    resumes: int = 0  # how often a run went on from a saved state
    cancel_requested: bool = False
    epoch: int | None = None  # the one under way, from 1
    step: int | None = None  # within it
    steps: int | None = None  # an epoch
    images_per_second: float | None = None
    eta_seconds: float | None = None
    d_loss: float | None = None
    g_loss: float | None = None
    d_real: float | None = None
    d_fake: float | None = None
    version: int | None = None  # the one it published
    error: str | None = None


@dataclass(frozen=True)
class Claim:
    """A job as it was when it was taken, and the token under which it is held."""

    job: Job
    token: str
    may_be_published: bool  # an earlier run was about to


class Event(BaseModel):
    """Something that has happened to a job."""

    id: str  # grows from one to the next
    kind: str  # queued, started, epoch, metric, sample, published, ended
    data: dict[str, Any]


_JOB, _EVENTS = "digits:job:", "digits:events:"

_CONSTANTS = {
    "LEASE": LEASE_SECONDS,
    "MAX_LOST": MAX_LOST,
    "RECONCILE": RECONCILE_SECONDS,
    "QUIET": QUIET_SECONDS,
    "WAKE": WAKE_SECONDS,
    "KEPT": KEPT_SECONDS,
    "IDEMPOTENCY": IDEMPOTENCY_SECONDS,
    "MAX_EVENTS": MAX_EVENTS,
}
_SCRIPT = "".join(f"local {name} = {value}\n" for name, value in _CONSTANTS.items()) + (
    Path(__file__).with_name("jobs.lua").read_text()
)


class JobStore:
    """The jobs in one Redis. Every method is one round trip or two, and raises ``RedisError``."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(_SCRIPT)

    def _change(self, name: str, *arguments: Any) -> Any:
        return self._script(args=[name, *arguments])

    def ping(self) -> None:
        """Raise unless Redis answers."""
        self._redis.ping()

    def create(self, request: TrainRequest, idempotency_key: str | None = None) -> tuple[Job, bool]:
        """Record a new queued job; with a key that has made one before, return that one and False.

        Raises:
            KeyReusedError: the key has made a job from another request.
        """
        fields = {
            "id": str(uuid.uuid4()),
            "arch": request.arch,
            "recipe": request.recipe,
            "epochs": request.epochs or RECIPES[request.recipe][request.arch].epochs,
            "seed": seeds.make_fresh() if request.seed is None else request.seed,
            "measure_every": request.measure_every,
        }
        fingerprint = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        self.ping()  # a frozen Redis would run what it was sent when it wakes: ask before sending
        before, record = self._change("create", fields["id"], idempotency_key or "", fingerprint, *_flat(fields))
        if before not in ("", fingerprint):
            raise KeyReusedError
        return _job(record), not before

    def get(self, job_id: str) -> Job | None:
        """The job, or None where there is none of this id."""
        fields = self._redis.hgetall(_JOB + job_id)
        return Job.model_validate(fields) if fields else None

    def has_ended(self, job_id: str) -> bool | None:
        """Whether a job has ended; None where there is none of this id."""
        state = self._redis.hget(_JOB + job_id, "state")
        return None if state is None else state not in (JobState.QUEUED, JobState.RUNNING)

    def last_event(self, job_id: str) -> tuple[str, str] | None:
        """Id and kind of the newest event of a job."""
        entries = cast("list[tuple[str, dict[str, str]]]", self._redis.xrevrange(_EVENTS + job_id, count=1))
        return (entries[0][0], entries[0][1]["kind"]) if entries else None

    def newest(self, limit: int) -> list[Job]:
        """Up to ``limit`` jobs, newest first."""
        ids = cast("list[str]", self._redis.zrevrange("digits:jobs", 0, limit - 1))
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(_JOB + job_id)
            return [Job.model_validate(fields) for fields in pipe.execute() if fields]

    def claim(self, job_id: str, holder: str) -> Claim | None:
        """Take a queued job to run it, on a lease; None where it is not queued (any more).

        ``holder`` names the process that will know if the one that runs the job dies.
        """
        self.ping()  # as in create
        token = uuid.uuid4().hex
        record = self._change("claim", job_id, holder, token)
        return Claim(_job(record), token, "publishing" in _fields(record)) if record else None

    def report(
        self, claim: Claim, fields: Mapping[str, float] | None = None, events: Iterable[tuple[int, str, str]] = ()
    ) -> Standing:
        """Record progress and events of a claimed job, and renew its lease; how it stands.

        An event is its number in this run, from 1, its kind and its data as JSON; one that was
        recorded before, in a call whose answer was lost, is not recorded again.
        """
        flat = _flat(fields or {})
        told = [part for event in events for part in event]
        return Standing(self._change("report", claim.job.id, claim.token, len(flat), *flat, *told))

    def start_publishing(self, claim: Claim) -> Standing:
        """How the job stands; where it is HELD, it cannot be canceled any more unless this run is lost."""
        return Standing(self._change("start_publishing", claim.job.id, claim.token))

    def finish(self, claim: Claim, state: JobState, **facts: int | str) -> bool:
        """Record that a claimed job has ended; False where it is another's, and nothing is recorded."""
        return bool(self._change("finish", claim.job.id, claim.token, state.value, *_flat(facts)))

    def give_back(self, claim: Claim) -> bool:
        """Return a claimed job to the queue, the attempt uncounted; False where it is another's."""
        return bool(self._change("give_back", claim.job.id, claim.token))

    def lose(self, job_id: str, holder: str) -> bool:
        """Record that the process that ran the job for ``holder`` has died; False where it did not run it."""
        return bool(self._change("lose", job_id, holder))

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a queued job at once, ask a running one to stop; its record then, None if unknown.

        A job that has ended stays as it is.
        """
        self.ping()  # as in create
        record = self._change("cancel", job_id)
        return _job(record) if record else None

    def reconcile(self, waiting: int, *, at_once: bool = False) -> list[str]:
        """Return jobs with expired leases to the queue; the ids of those that need a wake-up.

        ``waiting`` is the number of wake-ups that no worker has taken yet: where there are as many
        as queued jobs, none is missing. Does nothing within ``RECONCILE_SECONDS`` of the last call
        by anybody, unless ``at_once``.
        """
        return [str(job_id) for job_id in self._change("reconcile", waiting, int(at_once))]


async def follow(redis: AsyncRedis, job_id: str, after: str) -> AsyncIterator[Event | None]:
    """The events of a job after the id ``after`` (``0``: all), as they happen, until its last one.

    Ends also where there is no such job any more. None stands for a while without any. While Redis
    is away it waits.
    """
    name = _EVENTS + job_id
    while True:
        try:
            streams: Any = await redis.xread({name: after}, block=int(BLOCK_SECONDS * 1000))
            newest: Any = [] if streams else await redis.xrevrange(name, count=1)
        except (ConnectionError, TimeoutError) as error:
            logger.warning("cannot follow job %s: %s", job_id, error)
            await asyncio.sleep(1)
            yield None
            continue
        if not streams:
            if not newest or newest[0][1]["kind"] == ENDED:
                return
            yield None
        for _, entries in streams:
            for after, fields in entries:
                event = Event(id=after, kind=fields["kind"], data=json.loads(fields["data"]))
                yield event
                if event.kind == ENDED:
                    return


def _fields(record: list[str]) -> dict[str, str]:
    return dict(zip(record[::2], record[1::2], strict=True))


def _job(record: list[str]) -> Job:
    return Job.model_validate(_fields(record))


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [part for name, value in fields.items() if value is not None for part in (name, value)]
