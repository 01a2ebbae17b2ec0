"""Jobs in Redis: the only place that knows how a job is stored.

    digits:job:<id>     hash        the record: the truth about a job, while a message is only a wake-up
    digits:events:<id>  stream      what has happened to the job, capped
    digits:jobs         sorted set  all jobs by creation time
    digits:queued       sorted set  the queued jobs by creation time
    digits:leases       sorted set  the running jobs by the end of their lease
    digits:webhooks     sorted set  the ended jobs whose webhook waits, by the time of its next try
    digits:workers      sorted set  the workers by the time of their last word
    digits:totals       hash        how often something has happened to any job, which outlives the records

Every change is one run of ``jobs.lua``, on the clock of Redis. It checks the state of the job first, so
two workers cannot take the same job, and an ended job never changes. A running job has a lease and the
token of its claim. If its worker disappears, the lease runs out, the job returns to the queue, and
changes with an older token are refused. Must not import torch: the API and the worker's parent
process use this module.
"""

import contextlib
import hashlib
import logging
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from redis import Redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import SentinelConnectionPool

from models import seeds
from worker.logs import get_trace_id
from worker.recipes import DEFAULT_RECIPE, RECIPES, ArchName, DOutput, NoRecipeError, RecipeName, find_recipe
from worker.webhooks import Delivery, DeliveryState, Webhook, list_fields, nest_fields, read_webhook

logger = logging.getLogger(__name__)

MAX_EPOCHS = 1_000
LEASE_SECONDS = 30  # a running job without a report for this long counts as lost
COPY_MILLISECONDS = 500  # for a replica to take a new job
MAX_LOST = 3  # a job that has lost its worker this often in a row, without a new state, fails
RECONCILE_SECONDS = 10  # between two searches for lost jobs and lost wake-ups
QUIET_SECONDS = 2 * LEASE_SECONDS  # after Redis was away, no lease counts as lost: workers report first
WAKE_SECONDS = 30  # a queued job whose wake-up is older may get another
KEPT_SECONDS = 30 * 24 * 3600  # that an ended job is kept
ALIVE_SECONDS = 3 * RECONCILE_SECONDS  # that a worker counts as alive after its last word
MAX_QUEUED = 1_000  # jobs, unless the settings say otherwise
IDEMPOTENCY_SECONDS = 24 * 3600  # that a key names the job that it made
MAX_EVENTS = 1_000  # kept per job, the newest ones
MAX_SAMPLES = 100  # of them with a picture, 7.6 KB each; of an ended job one
MAX_ENDED = 1_000  # jobs kept, the newest ones: at most 160 MB with their events
SENDING_SECONDS = 30  # a webhook that was taken this long ago without a word is sent again
MAX_PER_RECEIVER = 4  # webhooks sent to one host and port at a time, so that a slow one does not take all places
ENDED = "ended"  # the kind of a job's last event
EPOCH = "epoch"  # the kind of an event with the losses of a finished epoch
METRIC = "metric"  # the kind of an event with the metrics of an epoch
SAMPLE = "sample"  # the kind of an event with a picture


class JobState(StrEnum):
    """queued → running → succeeded | failed | canceled; a queued job may be canceled, a lost one is queued again.

    A job is unreadable if its record is damaged, or of a release that this one does not understand.
    """

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    UNREADABLE = "unreadable"


class Standing(StrEnum):
    """How a run stands: what it learns when it reports."""

    HELD = "held"
    CANCELED = "canceled"  # it must stop
    KEEP = "keep"  # it must stop, and publish the epochs that are finished
    LOST = "lost"  # its lease ran out and the job went elsewhere: it must stop and write nothing


class KeyReusedError(Exception):
    """An Idempotency-Key was used again with another body; use a new key."""


def require_number(value: object) -> object:
    """A validator of JSON: true, false and text are no numbers, though pydantic would take them as such."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a number")
    return value


# In JSON, 5.0 is a whole number, too.
Epochs = Annotated[int, Field(ge=1, le=MAX_EPOCHS), BeforeValidator(require_number)]
Seed = Annotated[int, Field(ge=0, le=seeds.MAX_SEED), BeforeValidator(require_number)]


class TooManyQueuedError(Exception):
    """As many jobs are queued as may be; cancel some, or try again later."""


class NotOwnedError(Exception):
    """The job is somebody else's: ask them to cancel it."""


class TooManyOwnedError(Exception):
    """The sender has as many jobs as it may have; cancel one, or wait until one has ended."""

    def __init__(self, most: int | None) -> None:
        super().__init__(f"{most} jobs are queued or running")
        self.most = most


class TrainRequest(BaseModel):
    """The body of ``POST /train``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: ArchName
    recipe: RecipeName = Field(RecipeName(DEFAULT_RECIPE), description="logistic: for wgan only")
    epochs: Epochs | None = Field(None, description="default: as in the recipe")
    seed: Seed | None = Field(None, description="default: a random seed")
    measure_every: Epochs | None = Field(
        None, description="epochs between measurements; default: measure only at the end"
    )
    webhook: Webhook | None = Field(None, description="whom to tell when the job has ended")

    @field_validator("recipe")
    @classmethod
    def _require_row(cls, recipe: RecipeName, seen: ValidationInfo) -> RecipeName:
        if arch := seen.data.get("arch"):  # else that is the error
            try:
                find_recipe(recipe, arch)
            except NoRecipeError as error:
                bound = {"expected": error.possible}
                raise PydanticCustomError("no_recipe", str(error), bound) from None
        return recipe

    def make_fingerprint(self) -> str:
        """Equal for equal requests. Without a webhook, it is what it was before there were any."""
        parts = [
            self.model_dump_json(exclude={"webhook"}),
            *(list_fields(self.webhook).values() if self.webhook else ()),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Job(BaseModel):
    """A job as its record describes it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    """Its name, in ``/jobs/{id}``."""
    state: JobState
    """queued → running → succeeded, failed or canceled; unreadable if its record is damaged."""
    queue_position: int | None = None
    """Its place in the queue; 1: the next one. Only of a queued job."""
    workers: int | None = None
    """How many workers are alive. Without one, a queued job waits. Only where ``queue_position`` is."""
    arch: str
    """The architecture that it trains."""
    recipe: str
    """The hyperparameters."""
    epochs: int
    """How many epochs it trains."""
    seed: int
    """The seed of its weights, its shuffling and its latents."""
    measure_every: int | None = None
    """Epochs between two measurements; null: one at the end."""
    request_id: str | None = None
    """The ``X-Request-ID`` of the request that queued it."""
    traceparent: str | None = None
    """The ``traceparent`` of that request: its place in a trace (W3C Trace Context)."""
    created_at: datetime
    """When it was queued first, by the clock of Redis."""
    started_at: datetime | None = None
    """When a worker took it last."""
    ended_at: datetime | None = None
    """When it ended."""
    attempt: int = 0
    """How often a worker took it, minus how often a worker gave it back."""
    lost_leases: int = 0
    """How often its worker was lost."""
    lost_in_a_row: int = 0
    """How often in a row its worker was lost before a run came further. After three such losses the job fails."""
    saved_step: int | None = None
    """The furthest saved state, in steps since the first epoch began."""
    resumes: int = 0
    """How often a run went on from a saved state."""
    cancel_requested: bool = False
    """Somebody has canceled it: it stops soon."""
    keep: bool = False
    """When it stops, its finished epochs are published."""
    webhook: Delivery | None = None
    """How far the telling of its end is, if that was asked for."""
    epoch: int | None = None
    """The current epoch, from 1."""
    step: int | None = None
    """The current step of the epoch, from 1. A step is one of the generator."""
    steps: int | None = None
    """Steps of an epoch."""
    images_per_second: float | None = None
    """Training images a second, since the run began."""
    eta_seconds: float | None = None
    """Seconds until the last epoch is finished, at the speed until now."""
    d_loss: float | None = None
    """The discriminator's loss: the mean of the last finished epoch, as are the next three. It has no unit."""
    g_loss: float | None = None
    """The generator's loss."""
    d_real: float | None = None
    """The discriminator's verdict on real images; ``d_output`` says what it is."""
    d_fake: float | None = None
    """The discriminator's verdict on generated images."""
    d_output: DOutput | None = None
    """What ``d_real`` and ``d_fake`` are: a probability (0…1), a score without bounds, or raw outputs of D."""
    wasserstein: float | None = None
    """Of a Wasserstein critic, ``d_real`` − ``d_fake``: its estimate of the earth mover's distance."""
    version: int | None = None
    """The number of the version that it published."""
    error: str | None = None
    """Why it failed."""

    def list_facts(self) -> dict[str, str]:
        """What log lines say of it."""
        request = {"request_id": self.request_id} if self.request_id else {}
        trace = {"trace_id": get_trace_id(self.traceparent)} if self.traceparent else {}
        return {"job": self.id, **request, **trace}


@dataclass(frozen=True)
class Sender:
    """Who queues a job."""

    owner: str = ""  # whose jobs are counted together
    max_jobs: int | None = None  # of the owner, that may be queued or running; None: no limit
    request_id: str | None = None
    traceparent: str | None = None  # valid, if there is one


@dataclass(frozen=True)
class Claim:
    """A job as it was when it was claimed, and the token that holds it."""

    job: Job
    token: str
    may_be_published: bool  # an earlier run had started to publish


@dataclass(frozen=True)
class Notice:
    """The webhook of an ended job, taken to be sent. ``webhook.tries`` of the job counts this try, too."""

    job: Job
    webhook: Delivery
    secret: SecretStr


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to a job."""

    id: str  # increases from event to event: <milliseconds>-<number>
    kind: str  # queued, started, epoch, metric, sample, published, ended
    data: str  # an object as JSON, in one line


@dataclass(frozen=True, slots=True)
class News:
    """The next events of a job."""

    events: list[Event]
    is_ended: bool  # if these are all, no more will come


@dataclass(frozen=True, slots=True)
class Survey:
    """All jobs at one moment."""

    queued: int
    oldest_queued_seconds: float  # since the oldest queued job was created; 0 if none is queued
    running: list[Job]
    workers: int  # alive
    totals: Mapping[str, int]  # the field of digits:totals → how often; one that is missing is 0


_SAME_TIME = 50  # more jobs than can have been created at the same microsecond

JOB, EVENTS, KEY = "digits:job:", "digits:events:", "digits:idempotency:"

_CONSTANTS = {
    "LEASE": LEASE_SECONDS,
    "MAX_LOST": MAX_LOST,
    "RECONCILE": RECONCILE_SECONDS,
    "QUIET": QUIET_SECONDS,
    "WAKE": WAKE_SECONDS,
    "KEPT": KEPT_SECONDS,
    "IDEMPOTENCY": IDEMPOTENCY_SECONDS,
    "ALIVE": ALIVE_SECONDS,
    "MAX_EVENTS": MAX_EVENTS,
    "MAX_SAMPLES": MAX_SAMPLES,
    "MAX_ENDED": MAX_ENDED,
    "SENDING": SENDING_SECONDS,
    "MAX_PER_RECEIVER": MAX_PER_RECEIVER,
}
_SCRIPT = "".join(f"local {name} = {value}\n" for name, value in _CONSTANTS.items()) + (
    Path(__file__).with_name("jobs.lua").read_text("utf-8")
)


class JobStore:
    """The jobs in one Redis. Every method takes one or two round trips and may raise ``RedisError``."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._script = redis.register_script(_SCRIPT)

    def _change(self, name: str, *arguments: Any) -> Any:
        return self._script(args=[name, *arguments])

    def _change_now(self, name: str, *arguments: Any) -> Any:
        """A change that must not come late: a frozen Redis would make it when it wakes up, so it is asked first."""
        self._redis.ping()
        try:
            return self._change(name, *arguments)
        except RedisTimeoutError:
            raise RedisTimeoutError("it answers, but not to changes: writes are paused") from None

    def _change_for_good(self, name: str, *arguments: Any) -> Any:
        """A change that outlives the primary: where sentinels may choose another one, a replica has it, too.

        If none takes it soon, the change stays, and the log says so.
        """
        if not isinstance(self._redis.connection_pool, SentinelConnectionPool):
            return self._change_now(name, *arguments)
        self._redis.ping()
        # WAIT asks for what its own connection has written.
        with self._redis.client() as one:  # type: ignore[no-untyped-call]
            answer = self._script(args=[name, *arguments], client=one)
            if not one.wait(1, COPY_MILLISECONDS):
                logger.warning("no replica of redis has taken a new job within %d ms", COPY_MILLISECONDS)
        return answer

    def probe(self) -> None:
        """Raise ``RedisError`` unless Redis takes what a new job needs."""
        self._change_now("probe")

    def count(self) -> tuple[int, int]:
        """How many jobs are queued, and how many workers are alive."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zcard("digits:queued")
            pipe.zcard("digits:workers")
            queued, workers = pipe.execute()
        return queued, workers

    def survey(self) -> Survey:
        """What the jobs do now, and what has happened to all of them since the first one."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.zrange("digits:queued", 0, 0, withscores=True)
            pipe.zcard("digits:queued")
            pipe.zcard("digits:workers")
            pipe.hgetall("digits:totals")
            pipe.zrange("digits:leases", 0, -1)
            (seconds, microseconds), oldest, queued, workers, totals, running = pipe.execute()
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in running:
                pipe.hgetall(JOB + job_id)
            records = pipe.execute(raise_on_error=False)
        jobs = [_read_job(job_id, record) for job_id, record in zip(running, records, strict=True) if record]
        now = seconds + microseconds / 1e6
        return Survey(
            queued=queued,
            oldest_queued_seconds=max((now - created_at for _, created_at in oldest), default=0.0),
            running=[job for job in jobs if job.state is JobState.RUNNING],
            workers=workers,
            totals={name: int(times) for name, times in totals.items() if times.isdigit()},
        )

    def note_worker(self, name: str) -> None:
        """Record that this worker is alive, for the next ``ALIVE_SECONDS``."""
        self._change("work", name)

    def forget_worker(self, name: str) -> None:
        """Record that this worker takes no more jobs."""
        self._change("leave", name)

    def create(
        self,
        request: TrainRequest,
        idempotency_key: str | None = None,
        max_queued: int = MAX_QUEUED,
        sender: Sender = Sender(),
    ) -> tuple[Job, bool]:
        """Record a new queued job; return it and True. If the key has made a job before, return that one and False.

        Raises:
            KeyReusedError: the key has made a job from another request.
            TooManyQueuedError: ``max_queued`` jobs are queued.
            TooManyOwnedError: the sender has as many jobs as it may have.
        """
        fields = {
            "id": str(uuid.uuid4()),
            "arch": request.arch,
            "recipe": request.recipe,
            "epochs": request.epochs or find_recipe(request.recipe, request.arch).epochs,
            "seed": seeds.make_fresh() if request.seed is None else request.seed,
            "measure_every": request.measure_every,
            "request_id": sender.request_id,
            "traceparent": sender.traceparent,
        }
        fingerprint = request.make_fingerprint()
        names = (fields["id"], idempotency_key or "", fingerprint)
        fields |= list_fields(request.webhook) if request.webhook else {}
        limits = (max_queued, sender.owner, sender.max_jobs or 0)
        before, record = self._change_for_good("create", *names, *limits, *flatten(fields))
        if before == "full":
            raise TooManyQueuedError
        if before == "owned":
            raise TooManyOwnedError(sender.max_jobs)
        if before not in ("", fingerprint):
            raise KeyReusedError
        job = _parse_job(record)
        with contextlib.suppress(RedisError):  # the job is recorded, whether its place is known or not
            job = self.get(job.id) or job
        return job, not before

    def get(self, job_id: str) -> Job | None:
        """The job with this id, with its place in the queue, or None."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(JOB + job_id)
            pipe.zrank("digits:queued", job_id)
            pipe.zcard("digits:workers")
            fields, before, workers = pipe.execute()
        return _read_job(job_id, fields, before, workers) if fields else None

    def can_run(self, job_id: str) -> bool:
        """Whether a job is queued, and this release knows its architecture and recipe."""
        job = self.get(job_id)
        if job is None or job.state is not JobState.QUEUED:
            return False
        if job.recipe in RECIPES and job.arch in RECIPES[job.recipe]:
            return True
        text = "job %s waits for another worker: %s of recipe %s is unknown here"
        logger.warning(text, job.id, job.arch, job.recipe, extra={"facts": job.list_facts()})
        return False

    def has_ended(self, job_id: str) -> bool | None:
        """Whether a job has ended; None if there is no job with this id."""
        state = self._redis.hget(JOB + job_id, "state")
        return None if state is None else state not in (JobState.QUEUED, JobState.RUNNING)

    def read_events(self, after: Mapping[str, str], count: int) -> dict[str, News | None]:
        """The next ``count`` events at most of each job, after the id that is given for it (``0``: from the first).

        None for a job that does not exist.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id, last in after.items():
                pipe.hget(JOB + job_id, "state")  # before the events: the last one comes with the end
                pipe.xrange(EVENTS + job_id, min=f"({last}", count=count)
            answers = iter(pipe.execute(raise_on_error=False))
        return {
            job_id: _read_news(state, entries) for job_id, state, entries in zip(after, answers, answers, strict=True)
        }

    def list_page(
        self, limit: int, state: JobState | None = None, cursor: str | None = None
    ) -> tuple[list[Job], str | None]:
        """Up to ``limit`` jobs, newest first, and the cursor of the next page, if there is one.

        A page begins behind the last job of the page before, whatever has come or gone since.

        Raises:
            ValueError: the cursor is none.
        """
        score, _, last = cursor.partition("_") if cursor else ("+inf", "", "")
        float(score)
        count = limit + _SAME_TIME  # read at a time
        jobs: list[Job] = []
        while True:
            found = cast(
                "list[tuple[str, float]]",
                self._redis.zrevrangebyscore("digits:jobs", score, "-inf", start=0, num=count, withscores=True),
            )
            rest = [(job_id, at) for job_id, at in found if not last or (at, job_id) < (float(score), last)]
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.zcard("digits:workers")
                for job_id, _ in rest:
                    pipe.hgetall(JOB + job_id)
                    pipe.zrank("digits:queued", job_id)
                workers, *answers = pipe.execute(raise_on_error=False)
            for (job_id, at), record, before in zip(rest, answers[::2], answers[1::2], strict=True):
                if record and (job := _read_job(job_id, record, before, workers)) and state in (None, job.state):
                    if len(jobs) == limit:
                        return jobs, f"{score}_{last}"
                    jobs.append(job)
                score, last = repr(at), job_id
            if len(found) < count:
                return jobs, None

    def list_newest(self, limit: int) -> list[Job]:
        """Up to ``limit`` jobs, newest first."""
        return self.list_page(limit)[0]

    def claim(self, job_id: str, holder: str) -> Claim | None:
        """Take a queued job on a lease, to run it; None if it is not queued (any more).

        ``holder`` names the process that will notice if the process that runs the job dies.
        """
        token = uuid.uuid4().hex
        record = self._change_now("claim", job_id, holder, token)
        return Claim(_parse_job(record), token, "publishing" in _to_dict(record)) if record else None

    def report(
        self, claim: Claim, fields: Mapping[str, float | str] | None = None, events: Iterable[tuple[int, str, str]] = ()
    ) -> Standing:
        """Record progress and events of a claimed job and renew its lease; return how it stands.

        An event is (its number in this run, from 1; its kind; its data as JSON). An event is not
        recorded again if an earlier call has recorded it but its answer was lost.
        """
        flat = flatten(fields or {})
        told = [part for event in events for part in event]
        return Standing(self._change("report", claim.job.id, claim.token, len(flat), *flat, *told))

    def start_publishing(self, claim: Claim) -> Standing:
        """Start to publish; return how the job stands. If HELD, it cannot be canceled unless this run is lost."""
        return Standing(self._change("start_publishing", claim.job.id, claim.token))

    def finish(self, claim: Claim, state: JobState, **facts: int | str) -> bool:
        """Record that a claimed job has ended. False, and nothing is recorded, if another run has the job."""
        return bool(self._change("finish", claim.job.id, claim.token, state.value, *flatten(facts)))

    def give_back(self, claim: Claim) -> bool:
        """Return a claimed job to the queue; the attempt does not count. False if another run has the job."""
        return bool(self._change("give_back", claim.job.id, claim.token))

    def lose(self, job_id: str, holder: str) -> bool:
        """Record that the job's process has died. False if the job was not running for ``holder``."""
        return bool(self._change("lose", job_id, holder))

    def cancel(self, job_id: str, *, keep: bool = False, owner: str = "") -> Job | None:
        """Cancel a queued job at once, or ask a running one to stop; return the job, None if unknown.

        To ``keep`` publishes its finished epochs; a queued job that has some then waits for a worker. A job
        that has ended does not change. ``owner``: who asks, if only the own jobs may be canceled.

        Raises:
            NotOwnedError: the job is not that owner's.
        """
        record = self._change_now("cancel", job_id, int(keep), owner)
        if record == "others":
            raise NotOwnedError
        return _read_job(job_id, _to_dict(record)) if record else None

    def reconcile(self, waiting: int, *, at_once: bool = False) -> list[str]:
        """Put jobs with expired leases back into the queue; return the ids of jobs that need a wake-up.

        ``waiting`` is the number of wake-ups that no worker has taken yet. If it equals the number of
        queued jobs, no wake-up is missing. Unless ``at_once``, a call does nothing if any process has
        called this in the last ``RECONCILE_SECONDS``.
        """
        return [str(job_id) for job_id in self._change("reconcile", waiting, int(at_once))]

    def take_webhooks(self, count: int) -> list[Notice]:
        """Take up to ``count`` webhooks that are due. Nobody else gets them within ``SENDING_SECONDS``."""
        taken = [(job_id, _to_dict(record)) for job_id, record in self._change("take_webhooks", count)]
        return [Notice(_read_job(job_id, record), *read_webhook(record)) for job_id, record in taken]

    def settle_webhook(
        self, notice: Notice, state: DeliveryState, error: str | None = None, delay_seconds: float = 0.0
    ) -> None:
        """Record how a try went. A webhook that is still WAITING is due again after the delay.

        A late word, when somebody else has taken it since, counts only if it is DELIVERED.
        """
        tries = notice.webhook.tries
        self._change("settle_webhook", notice.job.id, tries, state.value, delay_seconds, error or "")


def _to_dict(record: list[str]) -> dict[str, str]:
    return dict(zip(record[::2], record[1::2], strict=True))


def _read_job(
    job_id: str, record: dict[str, str] | RedisError, before: int | None = None, workers: int | None = None
) -> Job:
    """The job of a record; an unreadable one, so that all others can be listed beside it.

    ``before``: how many jobs are before it in the queue.
    """
    try:
        if isinstance(record, RedisError):
            raise record
        place = {} if before is None else {"queue_position": before + 1, "workers": workers}
        return Job.model_validate(nest_fields({**record, **place}))
    except (ValidationError, RedisError) as error:
        reason = f"{error.errors()[0]['loc'][0]}" if isinstance(error, ValidationError) else str(error)
        return Job(
            id=job_id, state=JobState.UNREADABLE, arch="", recipe="", epochs=0, seed=0,
            created_at=datetime.fromtimestamp(0, UTC), error=f"the record of this job cannot be read: {reason}",
        )  # fmt: skip


def _read_news(state: Any, entries: Any) -> News | None:
    """What was found of one job. A damaged one must not hide the others."""
    if not isinstance(state, str) or isinstance(entries, RedisError):
        return None
    events = [Event(number, fields.get("kind", "unreadable"), fields.get("data", "{}")) for number, fields in entries]
    return News(events, state not in (JobState.QUEUED, JobState.RUNNING))


def _parse_job(record: list[str]) -> Job:
    return Job.model_validate(nest_fields(_to_dict(record)))


def flatten(fields: Mapping[str, Any]) -> list[Any]:
    """Names and values of fields, one after the other, without those that are None."""
    return [part for name, value in fields.items() if value is not None for part in (name, value)]
