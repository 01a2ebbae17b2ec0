"""Looks after jobs whose worker or whose wake-up was lost, in the API and in every worker.

The reconcilers share a lock in Redis, so that one of them looks every ``RECONCILE_SECONDS``.
"""

import logging
import threading
from pathlib import Path

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker import jobs, saved
from worker.broker import Publisher
from worker.connections import connect

logger = logging.getLogger(__name__)


class Reconciler:
    """Looks when it is started and every ``RECONCILE_SECONDS`` after that, in a thread, until it is closed."""

    def __init__(self, redis_url: str, model_dir: Path) -> None:
        self._store, self._publisher = jobs.JobStore(connect(redis_url)), Publisher(redis_url)
        self._model_dir = model_dir
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="reconciler")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._publisher.close()

    def _work(self) -> None:
        at_once = True
        while not self._closed.is_set():
            try:
                for job_id in self._store.reconcile(self._publisher.count_waiting(), at_once=at_once):
                    logger.info("job %s is queued without a wake-up: it gets one", job_id)
                    self._publisher.wake(job_id)
                at_once = False
                saved.sweep(self._model_dir, self._store.has_ended)
            except (RedisError, OperationalError) as error:
                logger.warning("cannot look after the jobs: %s", error)
            except Exception:  # whatever it is, it may be over in ten seconds
                logger.exception("cannot look after the jobs")
            self._closed.wait(jobs.RECONCILE_SECONDS)
