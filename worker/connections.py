"""Clients of Redis, and how long each of them waits.

Must not import Celery or torch. A Redis that is away shall be noticed in a second or two, not in
the minutes that the clients' own defaults take.
"""

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.retry import Retry

REDIS_SECONDS = 1.0  # for a connection, and for an answer: two calls and a message fit into 3 s
BLOCK_SECONDS = 10.0  # that Redis is asked to wait for the next event before it answers


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
    """A client for :func:`worker.jobs.follow`, which asks Redis to wait up to ``BLOCK_SECONDS``."""
    return AsyncRedis.from_url(
        url, decode_responses=True, socket_timeout=2 * BLOCK_SECONDS, socket_connect_timeout=REDIS_SECONDS
    )
