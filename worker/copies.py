"""Copies of jobs, as a backup keeps them: all of a job at one moment, and back into a Redis.

What is put back is checked first, so that neither the script nor the API can stumble over it later.
"""

import json
import re
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from redis.exceptions import RedisError

from worker.jobs import EVENTS, JOB, KEY, MAX_EVENTS, Job, JobState, JobStore, flatten
from worker.webhooks import nest_fields

_NUMBER = r"^[0-9]{1,12}(\.[0-9]{1,9})?$"  # seconds since 1970, as a record has them

MAX_KEY = 265  # characters: the name of an API key, up to 64, a colon, and what the client sends, up to 200

JobId = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
EventId = Annotated[str, Field(pattern=r"^[0-9]{1,14}-[0-9]{1,9}$")]
EventKind = Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]


class JobCopy(BaseModel):
    """Everything that Redis has of a job, as a backup keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    record: Annotated[dict[str, str], Field(max_length=200)]
    events: Annotated[list[tuple[EventId, EventKind, str]], Field(max_length=2 * MAX_EVENTS)]

    @model_validator(mode="after")
    def _require_readable(self) -> Self:
        """Refuse what the script or the API could stumble over later."""
        job = self.job
        if job.state is JobState.UNREADABLE or not re.fullmatch(r"[A-Za-z0-9-]{1,64}", job.id):
            raise ValueError("the job is unreadable")
        times = ("created_at", "ended_at") if job.state not in (JobState.QUEUED, JobState.RUNNING) else ("created_at",)
        for name in times:
            if not re.fullmatch(_NUMBER, self.record.get(name, "")):
                raise ValueError(f"{name} should be seconds since 1970")
        numbers = [tuple(map(int, event[0].split("-"))) for event in self.events]
        if any(later <= earlier for earlier, later in pairwise([(0, 0), *numbers])):
            raise ValueError("the ids of the events should increase")
        if not all("\n" not in data and isinstance(json.loads(data), dict) for _, _, data in self.events):
            raise ValueError("the data of an event should be an object as JSON, in one line")
        return self

    @property
    def job(self) -> Job:
        return Job.model_validate(nest_fields(self.record))


class KeyCopy(BaseModel):
    """An Idempotency-Key and what it names, as a backup keeps it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, Field(min_length=1, max_length=MAX_KEY)]
    id: JobId
    fingerprint: Annotated[str, Field(max_length=64)]
    expires_at: Annotated[float, Field(ge=0, le=1e12)]  # seconds since 1970


class Restored(StrEnum):
    """What became of a job of a backup."""

    RESTORED = "restored"
    THERE = "there"  # a job with its id is there already, and stays as it is
    EXPIRED = "expired"  # it has ended too long ago


class CopyStore(JobStore):
    """The jobs in one Redis, which can be copied and put back."""

    def list_ids(self) -> list[str]:
        """The ids of all jobs, oldest first."""
        return [str(job_id) for job_id in self._redis.zrange("digits:jobs", 0, -1)]

    def copy(self, job_id: str) -> JobCopy | None:
        """All of a job, at one moment; None if there is no such job any more.

        Raises:
            ValueError: the record is damaged, or of a release that this one does not understand.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(JOB + job_id)
            pipe.xrange(EVENTS + job_id)
            record, entries = pipe.execute(raise_on_error=False)
        for answer in (record, entries):
            _raise_unless_unreadable(answer)
            if isinstance(answer, RedisError):
                raise ValueError(str(answer))
        events = [(number, fields.get("kind"), fields.get("data")) for number, fields in entries]
        return JobCopy.model_validate({"record": record, "events": events}) if record else None

    def copy_keys(self) -> tuple[list[KeyCopy], int]:
        """All idempotency keys that have not expired, and how many of them cannot be read."""
        names = sorted(set(self._redis.scan_iter(match=f"{KEY}*", count=1_000)))
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(name)
                pipe.pttl(name)
            pipe.time()
            *answers, now = pipe.execute(raise_on_error=False)
        _raise_unless_unreadable(now)
        copies, unreadable = [], 0
        for name, fields, left in zip(names, answers[::2], answers[1::2], strict=True):
            _raise_unless_unreadable(fields)
            _raise_unless_unreadable(left)
            try:
                if isinstance(fields, RedisError):
                    raise ValueError(str(fields))
                if fields and left > 0:
                    facts = {**fields, "key": name.removeprefix(KEY), "expires_at": now[0] + left / 1e3}
                    copies.append(KeyCopy.model_validate(facts))
            except ValueError:
                unreadable += 1
        return copies, unreadable

    def restore(self, copy: JobCopy) -> Restored:
        """Put a job back. It is queued again if it was running."""
        record = flatten(copy.record)
        events = [part for event in copy.events for part in event]
        return Restored(self._change("restore", copy.job.id, len(record), *record, *events))

    def restore_key(self, copy: KeyCopy) -> None:
        """Put an idempotency key back, unless it is there or has expired."""
        self._change("restore_key", copy.key, copy.id, copy.fingerprint, copy.expires_at)


def _raise_unless_unreadable(answer: object) -> None:
    """Go on with an answer, and with the error that something else has the name of a record.

    Raises:
        RedisError: Redis does not answer.
    """
    if isinstance(answer, RedisError) and "WRONGTYPE" not in str(answer):
        raise answer
