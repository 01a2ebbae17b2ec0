"""The queue: a Celery app, its options, and the thin task that runs a job in a child process.

The message is a wake-up and carries the job's id alone; the job's record says everything. Each
job gets a fresh child process, and only that child imports torch.

    digits worker
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

import billiard
from billiard.exceptions import WorkerLostError
from celery import Celery, shared_task, signals
from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.jobs import JobState, JobStore
from worker.settings import LOG_FORMAT, Settings

logger = logging.getLogger(__name__)

REDIS_SECONDS = 1.0  # for a connection, and for an answer: two calls and a message fit into 3 s

REAP_SECONDS = 10.0  # between two looks for jobs whose lease has run out

_QUEUE = "digits"
_BROKER_PREFIX = "digits:broker:"

# Set in the training child when it is to stop: the job goes back to the queue.
_stopping = threading.Event()


def connect(url: str) -> Redis:
    """A client for the job records that fails within ``REDIS_SECONDS`` rather than waiting.

    Its methods raise ``redis.exceptions.RedisError``.
    """
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


def make_celery(redis_url: str, **transport_options: Any) -> Celery:
    """The Celery app for a worker, or with ``transport_options`` for another use of the broker."""
    celery = Celery("digits", broker=redis_url, include=["worker.queue"], set_as_current=False)
    celery.conf.update(
        broker_read_url=redis_url,  # or CELERY_BROKER_URL of the environment would win
        broker_write_url=redis_url,
        task_default_queue=_QUEUE,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        worker_pool="prefork",
        worker_concurrency=1,
        worker_pool_start_method="spawn",
        worker_max_tasks_per_child=1,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"global_keyprefix": _BROKER_PREFIX, **transport_options},
    )
    return celery


class Publisher:
    """Sends wake-ups: in a second or two, or not at all. Celery's own defaults wait much longer."""

    def __init__(self, redis_url: str) -> None:
        self._celery = make_celery(
            redis_url,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            max_retries=0,
            connect_retries_timeout=REDIS_SECONDS,
        )

    def wake(self, job_id: str) -> None:
        """Tell a worker of a queued job.

        Raises:
            kombu.exceptions.OperationalError: the broker does not answer.
        """
        self._celery.send_task("digits.train", [job_id], retry=False)

    def close(self) -> None:
        self._celery.close()


def serve(redis_url: str) -> None:
    """Run a worker in this process until it is told to stop."""
    celery = make_celery(redis_url)
    celery.set_current()
    celery.worker_main(
        ["--quiet", "worker", "--loglevel=INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    )


@shared_task(name="digits.train")
def train(job_id: str) -> None:
    """Run one job, in the child."""
    # Here and not at the child's start: billiard sets its own handlers after Celery's hooks.
    # SIGTERM, also the one that the death of the parent sends, returns the job to the queue.
    signal.signal(signal.SIGTERM, lambda *_: _stopping.set())
    signal_on_parent_death(signal.SIGTERM)

    from worker.run import run_job  # torch, and only here

    settings = Settings()
    if run_job(job_id, _store(settings), settings, _stopping.is_set) is JobState.QUEUED:
        try:
            Publisher(_url(settings)).wake(job_id)
        except OperationalError as error:  # the worker that looks after jobs will
            logger.warning("job %s is queued, but no worker could be told: %s", job_id, error)


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)


@signals.worker_ready.connect
def _look_after_jobs(**_: Any) -> None:
    """In the parent: return lost jobs to the queue, and see that queued ones have a wake-up, for ever.

    A wake-up is lost when the broker is emptied, or when a child dies before it has claimed the job.
    """
    settings = Settings()
    redis, store, publisher = connect(_url(settings)), _store(settings), Publisher(_url(settings))

    def keep_looking() -> None:
        while True:
            try:
                store.reap()
                if redis.llen(_BROKER_PREFIX + _QUEUE) == 0:  # so no wake-up is sent while others wait
                    for job_id in store.queued():
                        publisher.wake(job_id)  # a second one for the same job does nothing
            except (RedisError, OperationalError) as error:
                logger.warning("cannot look for lost jobs: %s", error)
            time.sleep(REAP_SECONDS)

    threading.Thread(target=keep_looking, daemon=True, name="lost jobs").start()


@signals.worker_shutting_down.connect
def _stop_children(**_: Any) -> None:
    """In the parent: Celery would wait for the training to end, so tell the child to stop."""
    for child in billiard.active_children():
        os.kill(child.pid, signal.SIGTERM)


@signals.task_failure.connect
def _record_lost_child(args: tuple[str, ...], exception: BaseException, **_: Any) -> None:
    """In the parent: a child that was killed could not record how its job ended."""
    if isinstance(exception, WorkerLostError):
        _store(Settings()).leave(args[0], JobState.FAILED, error=f"the training process was lost: {exception}")


def signal_on_parent_death(number: int) -> None:
    """Have this process signaled when its parent dies, so that none is left over (Linux only)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def _store(settings: Settings) -> JobStore:
    return JobStore(connect(_url(settings)))


def _url(settings: Settings) -> str:
    assert settings.redis_url is not None
    return settings.redis_url.get_secret_value()
