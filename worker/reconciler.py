"""Finds jobs that have lost their worker or their wake-up. Runs in the API and in every worker.

The reconcilers share a lock in Redis, so that only one of them searches every ``RECONCILE_SECONDS``.
"""

import contextlib
import logging
import threading
from pathlib import Path

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker import jobs, saved
from worker.broker import Publisher
from worker.connections import connect, explain

logger = logging.getLogger(__name__)


class Reconciler:
    """A thread that searches at its start and then every ``RECONCILE_SECONDS``, until it is closed.

    In a ``worker``, it also records that this worker is alive.
    """

    def __init__(self, redis_url: str, model_dir: Path, worker: str | None = None) -> None:
        self._store, self._publisher = jobs.JobStore(connect(redis_url)), Publisher(redis_url)
        self._worker = worker
        self._passes_without_worker = 0
        self._model_dir = model_dir
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="reconciler")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._publisher.close()
        if self._worker:
            with contextlib.suppress(RedisError):
                self._store.forget_worker(self._worker)

    def _work(self) -> None:
        at_once = True
        while not self._closed.is_set():
            try:
                if self._worker and not self._closed.is_set():
                    self._store.note_worker(self._worker)
                for job_id in self._store.reconcile(self._publisher.count_waiting(), at_once=at_once):
                    logger.info("job %s is queued, but its wake-up is missing: sending one", job_id)
                    self._publisher.wake(job_id)
                at_once = False
                self._warn_without_worker()
                saved.sweep(self._model_dir, self._store.has_ended)
            except (RedisError, OperationalError) as error:
                logger.warning("cannot search for lost jobs: %s (%s)", explain(error), error)
            except Exception:  # whatever it is, the next try may work
                logger.exception("cannot search for lost jobs")
            self._closed.wait(jobs.RECONCILE_SECONDS)

    def _warn_without_worker(self) -> None:
        """Say once that jobs wait for a worker. Only in the second pass: at first, one may be starting."""
        queued, workers = self._store.count()
        self._passes_without_worker = self._passes_without_worker + 1 if queued and not workers else 0
        if self._passes_without_worker == 2:
            logger.warning("jobs wait (%d), but no worker is alive: start one with `digits worker`", queued)
