"""Redis clients, and how long each of them waits.

A missing Redis must be noticed within a second or two; the clients' own defaults take minutes. Must
not import Celery or torch.
"""

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

REDIS_SECONDS = 1.0  # to connect, and for an answer: two calls and a message fit into 3 s


def connect(url: str) -> Redis:
    """A client for the job records. It fails after ``REDIS_SECONDS`` instead of waiting longer.

    Its methods raise ``redis.exceptions.RedisError``.
    """
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
