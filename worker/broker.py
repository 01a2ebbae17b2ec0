"""The broker: the Celery app, its options, and the publisher of wake-ups.

A message is only a wake-up: it carries the job's id, and the job's record has everything else.
Importing this registers no task and no hook: those are in ``worker.tasks``, for the worker only.
"""

import logging
from typing import Any

from celery import Celery
from kombu.transport import redis

from worker import connections
from worker.redis_url import read

logger = logging.getLogger(__name__)

STALE_SECONDS = 5.0  # beyond the one that Redis lets a worker wait, then its connection is made anew
CHILD_SECONDS = 120.0  # for a child to start; after Celery's 4 s, a busy host would start it again and again
TRAIN = "digits.train"  # the only task

_QUEUE = "digits"
_PREFIX = "digits:broker:"


class _Channel(redis.Channel):
    # kombu would note each message in Redis until it is acknowledged. If Redis is lost just then, the message is lost,
    # or the worker waits for its acknowledgement for ever and takes no other.
    ack_emulation = False

    def _get_pool(self, asynchronous: bool = False) -> Any:
        """Our own connections. A worker waits for messages on an asynchronous one, and must be told when it ends."""

        def tell(connection: Any) -> None:
            if self._registered:
                self._on_connection_disconnect(connection)  # type: ignore[no-untyped-call]

        options = self.connection.client.transport_options
        return connections.make_pool(
            options["address"],
            options["seconds"],
            health_check_interval=STALE_SECONDS,
            on_disconnect=tell if asynchronous else None,
        )

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            # It is off the queue. kombu would pass the error on, which ends the worker.
            logger.error("a message of the queue is not one of ours, and is ignored: %r", getattr(error, "doc", error))


class Transport(redis.Transport):
    """kombu's transport over Redis; a message that cannot be read does not end the worker.

    What kombu takes for its URL is only what it says in the log: the ``address`` of its options is used.
    """

    Channel = _Channel
    can_parse_url = True


def make_celery(redis_url: str, seconds: float, **transport_options: Any) -> Celery:
    """The Celery app. Its connections wait ``seconds`` for an answer; ``transport_options`` are kombu's."""
    address = read(redis_url)
    celery = Celery("digits", broker=str(address), include=["worker.tasks"], set_as_current=False)
    celery.conf.update(
        broker_read_url=str(address),  # else CELERY_BROKER_URL of the environment would win
        broker_write_url=str(address),
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
        broker_transport_options={
            "address": address,
            "seconds": seconds,
            "login": hash(address.url),  # kombu shares connections where the text of all options is the same
            "global_keyprefix": _PREFIX,
            "health_check_interval": STALE_SECONDS,
            **transport_options,
        },
    )
    return celery


class Publisher:
    """Sends wake-ups, or fails, within a second or two. Celery's own defaults wait much longer."""

    def __init__(self, redis_url: str) -> None:
        self._celery = make_celery(
            redis_url,
            connections.REDIS_SECONDS,
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
