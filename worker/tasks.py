"""The worker: its only task, which runs one job in a child process, and the hooks around it.

This is the only file that registers Celery tasks and hooks. Each job gets a new child process, and
only that child imports torch.

    digits worker
"""

import logging
import os
import signal
import socket
import threading
from typing import Any

import billiard
from billiard.exceptions import WorkerLostError
from celery import shared_task, signals
from celery.apps import worker as apps
from celery.worker import state
from celery.worker.request import Request
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker import broker, logs
from worker.connections import connect
from worker.jobs import JobState, JobStore
from worker.linux import signal_on_parent_death, yield_cores
from worker.reconciler import Reconciler
from worker.run import run_job
from worker.settings import LogSettings, Settings

logger = logging.getLogger(__name__)

BROKER_SECONDS = 10.0  # for the broker to answer; longer than a worker lets it wait for a message
REPLACE_SECONDS = 0.2  # between two looks for a child that has ended
DRAIN_SECONDS = 25.0  # for a training child to save its state and to give its job back
NICENESS = 10  # of training; an API on the same cores has 0

_told_to_end = threading.Event()  # set in the parent
_reconciler: Reconciler | None = None  # in the parent

# Set in the training child when it must stop: the job goes back to the queue.
_stopping = threading.Event()


def serve(redis_url: str) -> None:
    """Run a worker in this process until it is told to stop.

    Raises:
        SystemExit: with a status that is not 0 if it ends without being told.
    """
    celery = broker.make_celery(redis_url, BROKER_SECONDS)
    celery.set_current()
    try:
        celery.worker_main(
            ["--quiet", "worker", "--loglevel=INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        )
    except SystemExit as end:
        if end.code:
            raise
    if not _told_to_end.is_set():
        logger.error("the worker ended without being told to: see above")
        raise SystemExit(1)


class WakeUp(Request):  # type: ignore[misc] # Celery has no types
    """In the parent: a message whose job cannot be run here costs no child."""

    def revoked(self) -> bool:
        if super().revoked() or self._can_run():
            return bool(self._already_revoked)
        state.task_ready(self)
        self.acknowledge()
        return True

    def _can_run(self) -> bool:
        try:
            return _open_store(Settings()).can_run(self.args[0])
        except RedisError:  # the child will ask again
            return True


@shared_task(name=broker.TRAIN, Request=WakeUp)
def train(job_id: str) -> None:
    """Run one job, in the child."""
    # Here and not at the child's start: billiard sets its own handlers after Celery's hooks.
    # SIGTERM returns the job to the queue. The child also gets it when its parent dies.
    signal.signal(signal.SIGTERM, lambda *_: _stopping.set())
    signal_on_parent_death(signal.SIGTERM)
    yield_cores(NICENESS)

    settings = Settings()
    store, holder = _open_store(settings), _name_holder(os.getppid())
    if run_job(job_id, store, holder, settings, _stopping.is_set) is JobState.QUEUED:
        _wake(job_id, settings)


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    logs.set_up(LogSettings().log)
    logs.leave_out_repeated()


@signals.celeryd_after_setup.connect
def _catch_what_bypasses_the_log(**_: Any) -> None:
    """In the parent: what Celery and billiard write on their own is a line of the log, too, or is left out."""
    apps.safe_say = lambda text, *_: logger.info("%s", text)
    os.environ.pop("_MP_FORK_LOGLEVEL_", None)  # with it, each child announces itself


@signals.worker_ready.connect
def _replace_ended_children(sender: Any, **_: Any) -> None:
    """In the parent: look often for a child that has ended, so that the next job gets a new one at once.

    Celery often misses the end (celery/celery#9588), and then looks every 5 s only.
    """
    sender.hub.call_repeatedly(REPLACE_SECONDS, sender.pool.maintain_pool)


@signals.worker_ready.connect
def _look_after_jobs(**_: Any) -> None:
    """In the parent: start the reconciler."""
    global _reconciler
    # Celery would announce that a second Ctrl-C ends the training. It never has to: the state is saved.
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))
    settings = Settings()
    _reconciler = Reconciler(settings.require_redis(), settings.model_dir, _name_holder(os.getpid()))
    _reconciler.start()


@signals.worker_shutting_down.connect
def _stop_children(**_: Any) -> None:
    """In the parent: Celery would wait for the training to end, so tell the child to stop."""
    _told_to_end.set()
    logger.info("ending: a job that runs saves its state and returns to the queue")

    def send(number: int) -> None:
        for child in billiard.active_children():
            os.kill(child.pid, number)

    send(signal.SIGTERM)
    last_resort = threading.Timer(DRAIN_SECONDS, send, [signal.SIGKILL])
    last_resort.daemon = True
    last_resort.start()
    if _reconciler:
        _reconciler.close()


@signals.task_failure.connect
def _record_lost_child(args: tuple[str, ...], exception: BaseException, **_: Any) -> None:
    """In the parent: a child that was killed could not give its job back."""
    if not isinstance(exception, WorkerLostError):
        return
    settings = Settings()
    try:
        if _open_store(settings).lose(args[0], _name_holder(os.getpid())):
            logger.warning("the training process of job %s was lost", args[0], extra={"facts": {"job": args[0]}})
            _wake(args[0], settings)
    except RedisError as error:  # its lease will run out
        logger.warning("cannot record that job %s lost its training process: %s", args[0], error)


def _wake(job_id: str, settings: Settings) -> None:
    try:
        broker.Publisher(settings.require_redis()).wake(job_id)
    except OperationalError as error:  # the reconciler will wake one
        logger.warning("job %s is queued, but its wake-up could not be sent: %s", job_id, error)


def _open_store(settings: Settings) -> JobStore:
    return JobStore(connect(settings.require_redis()))


def _name_holder(worker_pid: int) -> str:
    """The name of a worker, which runs one child at a time."""
    return f"{socket.gethostname()}:{worker_pid}"
