"""A claimed job while it runs: a thread renews the lease and reports, whatever the training does.

Without Redis the training goes on. Progress and events wait for Redis. So does publishing, since it
must not happen twice.
"""

import json
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from redis.exceptions import RedisError

from worker.jobs import MAX_EVENTS, Claim, JobState, JobStore, Standing

logger = logging.getLogger(__name__)

T = TypeVar("T")

REPORT_SECONDS = 1.0  # between two reports; each renews the lease and reads the cancel flag
RETRY_SECONDS = 1.0  # between two tries of a call that must succeed, while Redis is away
STUCK_SECONDS = 60.0  # a run that has not stopped this long after it was told to is killed


class NotHeldError(Exception):
    """Another worker has the job now; write nothing more for it."""


class StoppedError(Exception):
    """The job was canceled, or the worker is about to end; stop the run."""


class CanceledError(StoppedError):
    """The job was canceled and has nothing to keep."""


class Lease:
    """A context manager that keeps a claimed job. ``stopping`` says whether the worker is about to end."""

    def __init__(self, store: JobStore, claim: Claim, stopping: Callable[[], bool]) -> None:
        self.job = claim.job
        self.standing = Standing.KEEP if claim.job.keep else Standing.HELD
        self.may_be_published = claim.may_be_published  # by an earlier run, or by this one
        self._publishing = False  # if True, a cancellation comes too late
        self._store, self._claim, self._stopping = store, claim, stopping
        self._fields: dict[str, float | str] = {}
        self._events: deque[tuple[int, str, str]] = deque(maxlen=MAX_EVENTS)
        self._event_number = 0  # the number of the last event
        self._lock = threading.Lock()  # one report at a time, in the order of the events
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def show(self, fields: Mapping[str, float | str]) -> None:
        """Write these fields into the job's record soon. They replace values that are not reported yet."""
        self._fields.update(fields)

    def tell(self, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to the job's events soon."""
        self._event_number += 1
        self._events.append((self._event_number, kind, json.dumps(data)))

    def should_stop(self) -> bool:
        """Whether the training must stop."""
        return self.standing is not Standing.HELD or self._stopping()

    def should_give_up(self) -> bool:
        """Whether the run must stop and will publish nothing."""
        return self.standing in (Standing.CANCELED, Standing.LOST) or self._stopping()

    def require(self) -> None:
        """Check that this run still has the job, before it writes. Without Redis, the write is allowed.

        Raises:
            NotHeldError: another run has the job.
        """
        try:
            self._report()
        except RedisError as error:
            logger.warning("cannot ask whether job %s is still held: %s", self.job.id, error)
        if self.standing is Standing.LOST:
            raise NotHeldError(f"job {self.job.id} went to another worker")

    def is_held(self) -> bool:
        """Whether this run still has the job; waits for Redis."""

        def ask() -> bool:
            self._report()
            return self.standing is not Standing.LOST

        return self._ask_patiently(ask, False)

    def start_publishing(self) -> bool:
        """Whether the run may publish; waits for Redis, since only Redis knows."""

        def ask() -> bool:
            with self._lock:
                self._learn(self._store.start_publishing(self._claim))
                self._publishing = self.standing in (Standing.HELD, Standing.KEEP)
                self.may_be_published |= self._publishing
                return self._publishing

        return not self._stopping() and self._ask_patiently(ask, False)

    def finish(self, state: JobState, **facts: int | str) -> bool:
        """Record the end of the job. False if another run has it, or nothing was recorded. Waits for Redis."""
        with self._lock:
            self._over.set()
            return self._ask_patiently(lambda: self._finish(state, facts), False)

    def give_back(self) -> bool:
        """Return the job to the queue. False if another run has it. Without Redis, its lease will run out."""
        with self._lock:
            self._over.set()
            return self._ask_patiently(self._give_back, False)

    def _finish(self, state: JobState, facts: Mapping[str, int | str]) -> bool:
        self._flush()
        return self._store.finish(self._claim, state, **facts)

    def _give_back(self) -> bool:
        self._flush()
        return self._store.give_back(self._claim)

    def _ask_patiently(self, ask: Callable[[], T], otherwise: T) -> T:
        """Ask until Redis answers. If the worker ends before that, return ``otherwise``."""
        while True:
            try:
                return ask()
            except RedisError as error:
                logger.warning("job %s waits for redis: %s", self.job.id, error)
                if self._stopping():
                    return otherwise
                time.sleep(RETRY_SECONDS)

    def _report(self) -> None:
        with self._lock:
            if not self._over.is_set():
                self._flush()

    def _flush(self) -> None:
        fields, events = dict(self._fields), list(self._events)
        self._learn(self._store.report(self._claim, fields, events))
        while events and self._events and self._events[0][0] <= events[-1][0]:
            self._events.popleft()

    def _learn(self, standing: Standing) -> None:
        if self.standing is not Standing.LOST:  # LOST is final: an older answer may still arrive
            self.standing = standing

    def _keep(self) -> None:
        stop_by: float | None = None
        while not self._over.wait(REPORT_SECONDS):
            try:
                self._report()
            except RedisError as error:
                logger.warning("cannot report on job %s: %s", self.job.id, error)
            except Exception:  # this thread must not end before the run
                logger.exception("cannot report on job %s", self.job.id)
            if self.standing in (Standing.HELD, Standing.KEEP) or self._publishing:
                continue
            stop_by = stop_by or time.monotonic() + STUCK_SECONDS
            if time.monotonic() > stop_by:
                logger.error("job %s did not stop within %.0f s: killed", self.job.id, STUCK_SECONDS)
                self.finish(JobState.CANCELED)
                os.kill(os.getpid(), signal.SIGKILL)
