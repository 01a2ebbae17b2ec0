"""The broker: the Celery app, its options, and the publisher of wake-ups.

A message is only a wake-up: it carries the job's id, and the job's record has everything else.
Importing this registers no task and no hook: those are in ``worker.tasks``, for the worker only.
"""

import logging
from typing import Any

from celery import Celery
from kombu.transport import redis

from worker import connections

logger = logging.getLogger(__name__)

CHILD_SECONDS = 120.0  # for a child to start; after Celery's 4 s, a busy host would start it again and again
TRAIN = "digits.train"  # the only task

_QUEUE = "digits"
_PREFIX = "digits:broker:"


class _Channel(redis.Channel):
    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            # It is off the queue. kombu would pass the error on, which ends the worker.
            logger.error("a message of the queue is not one of ours, and is ignored: %r", getattr(error, "doc", error))


class Transport(redis.Transport):
    """kombu's transport over Redis; a message that cannot be read does not end the worker."""

    Channel = _Channel


def make_celery(redis_url: str, **transport_options: Any) -> Celery:
    """The Celery app; ``transport_options`` set how long its connections wait."""
    celery = Celery("digits", broker=redis_url, include=["worker.tasks"], set_as_current=False)
    celery.conf.update(
        broker_read_url=redis_url,  # else CELERY_BROKER_URL of the environment would win
        broker_write_url=redis_url,
        broker_transport=f"{__name__}:{Transport.__name__}",
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
        broker_channel_error_retry=True,  # else a worker ends for good when Redis answers with an error
        broker_transport_options={"global_keyprefix": _PREFIX, **transport_options},
    )
    return celery


class Publisher:
    """Sends wake-ups, or fails, within a second or two. Celery's own defaults wait much longer."""

    def __init__(self, redis_url: str) -> None:
        self._celery = make_celery(
            redis_url,
            socket_timeout=connections.REDIS_SECONDS,
            socket_connect_timeout=connections.REDIS_SECONDS,
            max_retries=0,
            connect_retries_timeout=connections.REDIS_SECONDS,
        )
        self._redis = connections.connect(redis_url)

    def wake(self, job_id: str) -> None:
        """Tell a worker about a queued job.

        Raises:
            kombu.exceptions.OperationalError: the broker does not answer.
        """
        self._celery.send_task(TRAIN, [job_id], retry=False)

    def count_waiting(self) -> int:
        """The number of wake-ups that no worker has taken yet.

        Raises:
            redis.exceptions.RedisError: the broker does not answer.
        """
        return int(self._redis.llen(_PREFIX + _QUEUE))

    def close(self) -> None:
        self._celery.close()
        self._redis.close()
