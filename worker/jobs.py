"""Jobs and where they live: the one place that knows how a job looks in Redis.

A job is a hash, ``digits:job:<id>``, listed in the sorted set ``digits:jobs`` by creation time.
It is the truth about the job; the message in the queue is only a wake-up. Every change of state
is one Lua script that first compares the state, so two workers cannot both take a job and a
finished job never changes. Must not import torch: the API and the queue's parent process use it.
"""

import hashlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field
from redis import Redis

from models import seeds
from worker.recipes import DEFAULT_RECIPE, RECIPES, ArchName, RecipeName

MAX_EPOCHS = 1_000
IDEMPOTENCY_SECONDS = 24 * 3600  # for how long a key names the job it made


class JobState(StrEnum):
    """queued → running → succeeded | failed | canceled."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class KeyReusedError(Exception):
    """An Idempotency-Key came again with another body."""


class TrainRequest(BaseModel):
    """The body of ``POST /train``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: ArchName
    recipe: RecipeName = RecipeName(DEFAULT_RECIPE)
    epochs: int | None = Field(None, ge=1, le=MAX_EPOCHS, description="default: as many as the recipe names")
    seed: int | None = Field(None, ge=0, le=seeds.MAX_SEED, description="default: a fresh one")


class Job(BaseModel):
    """A job as its record says it is. Losses are those of the last finished epoch."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: JobState
    arch: str
    recipe: str
    epochs: int
    seed: int
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
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


# KEYS: job. ARGV: the state it must be in, then fields and values to set.
# Answers the state found (false: no such job).
_CHANGE = """
local state = redis.call('HGET', KEYS[1], 'state')
if state == ARGV[1] and #ARGV > 1 then redis.call('HSET', KEYS[1], unpack(ARGV, 2)) end
return state
"""

# KEYS: job, index, idempotency key or ''. ARGV: id, time, fingerprint, seconds, then fields and values.
# Answers the id that the key named before, with its fingerprint; else nothing.
_CREATE = """
if KEYS[3] ~= '' then
  local before = redis.call('HMGET', KEYS[3], 'id', 'fingerprint')
  if before[1] and redis.call('EXISTS', ARGV[5] .. before[1]) == 1 then return before end
  redis.call('HSET', KEYS[3], 'id', ARGV[1], 'fingerprint', ARGV[3])
  redis.call('EXPIRE', KEYS[3], ARGV[4])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return {}
"""

_PREFIX = "digits:job:"
_INDEX = "digits:jobs"


class JobStore:
    """The jobs in one Redis. Every method is one round trip or a few, and raises ``RedisError``."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._change = redis.register_script(_CHANGE)
        self._create = redis.register_script(_CREATE)

    def ping(self) -> None:
        """Raise unless Redis answers."""
        self._redis.ping()

    def create(self, request: TrainRequest, idempotency_key: str | None = None) -> tuple[Job, bool]:
        """Record a new queued job; with a key that has made one before, return that one and False.

        Raises:
            KeyReusedError: the key has made a job from another request.
        """
        job = Job(
            id=str(uuid.uuid4()),
            state=JobState.QUEUED,
            arch=request.arch,
            recipe=request.recipe,
            epochs=request.epochs or RECIPES[request.recipe][request.arch].epochs,
            seed=seeds.fresh() if request.seed is None else request.seed,
            created_at=datetime.now(UTC),
        )
        self.ping()  # a frozen Redis would run what it was sent when it wakes: ask before sending
        fingerprint = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        before = self._create(
            keys=[
                _PREFIX + job.id,
                _INDEX,
                f"digits:idempotency:{idempotency_key}" if idempotency_key else "",
            ],
            args=[
                job.id,
                job.created_at.timestamp(),
                fingerprint,
                IDEMPOTENCY_SECONDS,
                _PREFIX,
                *_flat(job.model_dump(mode="json", exclude_none=True)),
            ],
        )
        if not before:
            return job, True
        if before[1] != fingerprint:
            raise KeyReusedError
        earlier = self.get(before[0])
        assert earlier is not None
        return earlier, False

    def discard(self, job_id: str) -> None:
        """Forget a job that could not be queued."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(_PREFIX + job_id)
            pipe.zrem(_INDEX, job_id)
            pipe.execute()

    def get(self, job_id: str) -> Job | None:
        """The job, or None where there is none of this id."""
        fields = self._redis.hgetall(_PREFIX + job_id)
        return Job.model_validate(fields) if fields else None

    def newest(self, limit: int) -> list[Job]:
        """Up to ``limit`` jobs, newest first."""
        ids = cast("list[str]", self._redis.zrevrange(_INDEX, 0, limit - 1))
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(_PREFIX + job_id)
            return [Job.model_validate(fields) for fields in pipe.execute() if fields]

    def queued(self) -> list[str]:
        """The ids of all queued jobs, oldest first."""
        ids = cast("list[str]", self._redis.zrange(_INDEX, 0, -1))
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(_PREFIX + job_id, "state")
            return [job_id for job_id, state in zip(ids, pipe.execute(), strict=True) if state == JobState.QUEUED]

    def claim(self, job_id: str) -> Job | None:
        """Take a queued job to run it; None where it is not queued (any more)."""
        found = self._set(job_id, JobState.QUEUED, state=JobState.RUNNING, started_at=_now())
        return self.get(job_id) if found is JobState.QUEUED else None

    def report(self, job_id: str, **progress: float) -> bool:
        """Record the progress of a running job; whether it is to be canceled."""
        if self._set(job_id, JobState.RUNNING, **progress) is not JobState.RUNNING:
            return True
        return self._redis.hget(_PREFIX + job_id, "cancel_requested") == "1"

    def leave(self, job_id: str, state: JobState, **facts: Any) -> None:
        """Record that a running job has ended, or went back to the queue (``state`` QUEUED)."""
        ended = {} if state is JobState.QUEUED else {"ended_at": _now(), "eta_seconds": 0}
        self._set(job_id, JobState.RUNNING, state=state, **ended, **facts)

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a queued job at once, ask a running one to stop; its record then, None if unknown.

        A job that has ended stays as it is.
        """
        if self._set(job_id, JobState.QUEUED, state=JobState.CANCELED, ended_at=_now()) is JobState.RUNNING:
            self._set(job_id, JobState.RUNNING, cancel_requested=1)
        return self.get(job_id)

    def _set(self, job_id: str, expected: JobState, **fields: Any) -> JobState | None:
        """Set fields of a job that is in the expected state; answers the state found."""
        found = self._change(keys=[_PREFIX + job_id], args=[expected.value, *_flat(fields)])
        return JobState(found) if found else None


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [part for name, value in fields.items() for part in (name, int(value) if isinstance(value, bool) else value)]


def _now() -> str:
    return datetime.now(UTC).isoformat()
