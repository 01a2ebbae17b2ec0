"""Jobs and where they live: the one place that knows how a job looks in Redis.

A job is a hash, ``digits:job:<id>``, listed in the sorted set ``digits:jobs`` by creation time.
It is the truth about the job; the message in the queue is only a wake-up. Every change of state
is one Lua script that first compares the state, so two workers cannot both take a job and a
finished job never changes. A running job is held on a lease: where its worker is gone without a
word, the lease runs out and the job returns to the queue. Must not import torch: the API and the
queue's parent process use this module.
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
LEASE_SECONDS = 30  # a running job that has not reported for so long is taken for lost
IDEMPOTENCY_SECONDS = 24 * 3600  # for how long a key names the job it made


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
    """An Idempotency-Key came again with another body."""


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
    attempt: int = 0  # how often it was claimed
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

# What a job no longer says once it is back in the queue.
_FORGET = """
local function forget(key)
  redis.call('HDEL', key, 'started_at', 'epoch', 'step', 'steps', 'images_per_second', 'eta_seconds',
             'd_loss', 'g_loss', 'd_real', 'd_fake')
end
"""

# The hour of Redis, so that the clocks of the hosts do not matter.
_CLOCK = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
"""

# KEYS: job, leases. ARGV: id, seconds of the lease, time. Answers the number of the attempt, or nothing.
_CLAIM = (
    _CLOCK
    + """
if redis.call('HGET', KEYS[1], 'state') ~= 'queued' then return false end
redis.call('HSET', KEYS[1], 'state', 'running', 'started_at', ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
return redis.call('HINCRBY', KEYS[1], 'attempt', 1)
"""
)

# KEYS: job, leases. ARGV: id, attempt, seconds of the lease, fields and values. Answers a Standing.
_REPORT = (
    _CLOCK
    + """
local found = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'cancel_requested')
if found[1] ~= 'running' or found[2] ~= ARGV[2] then return 'lost' end
if #ARGV > 3 then redis.call('HSET', KEYS[1], unpack(ARGV, 4)) end
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
return found[3] == '1' and 'canceled' or 'held'
"""
)

# KEYS: job, leases. ARGV: id, attempt or '', 'state', the state, more fields and values.
_LEAVE = (
    _FORGET
    + """
local found = redis.call('HMGET', KEYS[1], 'state', 'attempt')
if found[1] ~= 'running' or (ARGV[2] ~= '' and found[2] ~= ARGV[2]) then return end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('ZREM', KEYS[2], ARGV[1])
if ARGV[4] == 'queued' then forget(KEYS[1]) end
"""
)

# KEYS: leases. ARGV: prefix of jobs, time. Answers the ids that are queued again.
_REAP = (
    _CLOCK
    + _FORGET
    + """
local queued = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  local key = ARGV[1] .. id
  redis.call('ZREM', KEYS[1], id)
  local found = redis.call('HMGET', key, 'state', 'cancel_requested')
  if found[1] == 'running' and found[2] == '1' then
    redis.call('HSET', key, 'state', 'canceled', 'ended_at', ARGV[2])
  elseif found[1] == 'running' then
    redis.call('HSET', key, 'state', 'queued')
    forget(key)
    queued[#queued + 1] = id
  end
end
return queued
"""
)

# KEYS: job. ARGV: time.
_CANCEL = """
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'queued' then redis.call('HSET', KEYS[1], 'state', 'canceled', 'ended_at', ARGV[1]) end
if state == 'running' then redis.call('HSET', KEYS[1], 'cancel_requested', 1) end
"""

_PREFIX = "digits:job:"
_INDEX = "digits:jobs"
_LEASES = "digits:leases"  # running jobs by the time when their lease runs out


class JobStore:
    """The jobs in one Redis. Every method is one round trip or a few, and raises ``RedisError``."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._create = redis.register_script(_CREATE)
        self._claim = redis.register_script(_CLAIM)
        self._report = redis.register_script(_REPORT)
        self._leave = redis.register_script(_LEAVE)
        self._reap = redis.register_script(_REAP)
        self._cancel = redis.register_script(_CANCEL)

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
            measure_every=request.measure_every,
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
        return (earlier, False) if earlier else self.create(request, idempotency_key)  # discarded just now

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
        """Take a queued job to run it, on a lease; None where it is not queued (any more).

        The job's ``attempt`` is the token of this claim: once another claim has been made, nothing
        that this one reports is taken.
        """
        claimed = self._claim(keys=[_PREFIX + job_id, _LEASES], args=[job_id, LEASE_SECONDS, _now()])
        return self.get(job_id) if claimed else None

    def report(self, job: Job, **progress: float) -> Standing:
        """Record the progress of a claimed job and renew its lease; how the job stands."""
        found = self._report(
            keys=[_PREFIX + job.id, _LEASES], args=[job.id, job.attempt, LEASE_SECONDS, *_flat(progress)]
        )
        return Standing(found)

    def leave(self, job_id: str, state: JobState, attempt: int | None = None, **facts: Any) -> None:
        """Record that a running job has ended, or went back to the queue (``state`` QUEUED).

        With ``attempt``, only if that claim still holds.
        """
        if state is not JobState.QUEUED:
            facts |= {"ended_at": _now(), "eta_seconds": 0}
        self._leave(
            keys=[_PREFIX + job_id, _LEASES],
            args=[job_id, "" if attempt is None else attempt, *_flat({"state": state.value, **facts})],
        )

    def reap(self) -> list[str]:
        """Return the running jobs whose lease has run out to the queue; the ids of those."""
        return [str(job_id) for job_id in self._reap(keys=[_LEASES], args=[_PREFIX, _now()])]

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a queued job at once, ask a running one to stop; its record then, None if unknown.

        A job that has ended stays as it is.
        """
        self._cancel(keys=[_PREFIX + job_id], args=[_now()])
        return self.get(job_id)


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [part for name, value in fields.items() for part in (name, int(value) if isinstance(value, bool) else value)]


def _now() -> str:
    return datetime.now(UTC).isoformat()
