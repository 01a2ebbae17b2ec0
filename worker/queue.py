"""The queue: a Celery app, its options, and the thin task that runs a job in a child process.

The message is a wake-up and carries the job's id alone; the job's record says everything. Each
job gets a fresh child process, and only that child imports torch.

    digits worker
"""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import billiard
from billiard.exceptions import WorkerLostError
from celery import Celery, shared_task, signals
from kombu.exceptions import OperationalError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from worker.jobs import FOLLOW_SECONDS, JobState, JobStore
from worker.lease import Lease
from worker.settings import LOG_FORMAT, Settings

logger = logging.getLogger(__name__)

REDIS_SECONDS = 1.0  # for a connection, and for an answer: two calls and a message fit into 3 s

BROKER_SECONDS = 10.0  # for the broker to answer a worker, which has asked it to wait for a message for less

DRAIN_SECONDS = 25.0  # for a training child to save its state and to give its job back

CHILD_SECONDS = 120.0  # for a child to start: Celery's 4 s are too few on a busy host, which then starts one for ever
NICENESS = 10  # of training, against 0 of an API that shares its cores

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


def connect_to_events(url: str) -> AsyncRedis:
    """A client for :func:`worker.jobs.follow`, which has Redis wait with its answer."""
    return AsyncRedis.from_url(
        url, decode_responses=True, socket_timeout=2 * FOLLOW_SECONDS, socket_connect_timeout=REDIS_SECONDS
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
        worker_proc_alive_timeout=CHILD_SECONDS,
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
        self._redis = connect(redis_url)

    def wake(self, job_id: str) -> None:
        """Tell a worker of a queued job.

        Raises:
            kombu.exceptions.OperationalError: the broker does not answer.
        """
        self._celery.send_task("digits.train", [job_id], retry=False)

    def waiting(self) -> int:
        """The number of wake-ups that no worker has taken yet.

        Raises:
            redis.exceptions.RedisError: the broker does not answer.
        """
        return int(self._redis.llen(_BROKER_PREFIX + _QUEUE))

    def close(self) -> None:
        self._celery.close()
        self._redis.close()


def serve(redis_url: str) -> None:
    """Run a worker in this process until it is told to stop."""
    celery = make_celery(redis_url, socket_timeout=BROKER_SECONDS, socket_connect_timeout=BROKER_SECONDS)
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
    yield_cores(NICENESS)

    settings = Settings()
    store = _store(settings)
    claim = store.claim(job_id, _holder(os.getppid()))  # where it raises, the job gets another wake-up
    if claim is None:
        logger.info("job %s is not queued: nothing to do", job_id)
        return
    with Lease(store, claim, _stopping.is_set) as lease:
        try:
            from worker.run import run_job  # torch, and only here and now: most messages that come twice end above
        except Exception as error:
            lease.finish(JobState.FAILED, error=f"{type(error).__name__}: {error}")
            raise
        if run_job(lease, settings) is JobState.QUEUED:
            _wake(job_id, settings)


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)


@signals.worker_ready.connect
def _look_after_jobs(**_: Any) -> None:
    """In the parent."""
    from worker.reconciler import Reconciler

    settings = Settings()
    Reconciler(_url(settings), settings)


@signals.worker_shutting_down.connect
def _stop_children(**_: Any) -> None:
    """In the parent: Celery would wait for the training to end, so tell the child to stop."""

    def send(number: int) -> None:
        for child in billiard.active_children():
            os.kill(child.pid, number)

    send(signal.SIGTERM)
    last_resort = threading.Timer(DRAIN_SECONDS, send, [signal.SIGKILL])
    last_resort.daemon = True
    last_resort.start()


@signals.task_failure.connect
def _record_lost_child(args: tuple[str, ...], exception: BaseException, **_: Any) -> None:
    """In the parent: a child that was killed could not give its job back."""
    if not isinstance(exception, WorkerLostError):
        return
    settings = Settings()
    try:
        if _store(settings).lose(args[0], _holder(os.getpid())):
            logger.warning("the training process of job %s was lost", args[0])
            _wake(args[0], settings)
    except RedisError as error:  # its lease will run out
        logger.warning("cannot record that job %s lost its training process: %s", args[0], error)


def _wake(job_id: str, settings: Settings) -> None:
    try:
        Publisher(_url(settings)).wake(job_id)
    except OperationalError as error:  # the reconciler will
        logger.warning("job %s is queued, but no worker could be told: %s", job_id, error)


def yield_cores(niceness: int) -> None:
    """Have what else runs on this machine go first, as ``nice`` does: an API above all."""
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    if os.getsid(0) in (os.getpid(), os.getppid()):  # not where others share it: a shell, an API beside
        with contextlib.suppress(OSError):  # Linux shares time among sessions before it looks at processes
            Path("/proc/self/autogroup").write_text(str(niceness))


def _holder(worker_pid: int) -> str:
    """A name of one worker, which runs one child at a time."""
    return f"{socket.gethostname()}:{worker_pid}"


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
