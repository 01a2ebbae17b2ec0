"""Redis clients, how long each of them waits, and what their errors mean.

A missing Redis must be noticed within a second or two; the clients' own defaults take minutes. Must
not import Celery or torch.
"""

from collections.abc import Mapping

from redis import Redis, ResponseError
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


SILENT = "it does not answer; try again later"

# A part of the text of an error → what it means, and what to do.
_LOGIN = "it does not accept the user or password of DIGITS_REDIS_URL"
_CLUSTER = "it is a cluster: name a Redis without cluster mode in DIGITS_REDIS_URL"
_PERMANENT: Mapping[str, str] = {
    "invalid username-password": _LOGIN,
    "wrongpass": _LOGIN,
    "authentication required": _LOGIN,
    "without any password configured": _LOGIN,
    "no permission": "its user may not do what is needed: docs/running.md has the rule",
    "db index is out of range": "it has no database with the number in DIGITS_REDIS_URL",
    "certificate verify failed": "its certificate is of an unknown authority or of another name: see DIGITS_REDIS_CA",
    "wrong version number": "it does not speak TLS: use redis:// in DIGITS_REDIS_URL",
    "protected mode": "it takes no clients of other hosts: give it a password (requirepass)",
    "unknown command": "it lacks a command: Redis 5 or newer, or a Valkey, is needed",
    "mentioned in the script": "its user may not do what is needed: docs/running.md has the rule",
    "cluster node": _CLUSTER,
    "moved ": _CLUSTER,
    "clusterdown": _CLUSTER,
    "hash slot": _CLUSTER,
    "same slot": _CLUSTER,
    "select is not allowed in cluster mode": _CLUSTER,
}
_TEMPORARY: Mapping[str, str] = {
    "read only replica": "it is a read-only replica: name its primary in DIGITS_REDIS_URL",
    "noreplicas": "too few of its replicas are connected (min-replicas-to-write)",
    "used memory": "its memory is full (maxmemory): give it more; running jobs go on, waiting ones can be canceled",
    "misconf": "it cannot save to its disk: see its own log",
    "wrong kind of value": "one of its keys digits:… is not one of ours: delete the key",
    "loading the dataset": "it is loading its data",
    "max number of clients": "it has no connection left (maxclients)",
    "masterdown": "it is a replica without its primary",
    "busy running a script": "it is busy",
    "writes are paused": "it answers, but not to changes: writes are paused, or it is too busy",
}


def explain(error: Exception) -> str:
    """What an error of Redis or the broker means, and what to do, without a secret."""
    said = str(error).lower()
    for part, meaning in {**_PERMANENT, **_TEMPORARY}.items():
        if part in said:
            return meaning
    return "it refuses: the log has its words" if isinstance(error, ResponseError) else SILENT


def is_permanent(error: Exception) -> bool:
    """Whether trying again is of no use, because a setting is wrong."""
    return any(part in str(error).lower() for part in _PERMANENT)
