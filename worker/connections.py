"""Redis clients, how long each of them waits, and what their errors mean.

A missing Redis must be noticed within a second or two; the clients' own defaults take minutes. Must
not import Celery or torch.
"""

from collections.abc import Callable, Mapping
from typing import Any

from redis import Connection, ConnectionPool, Redis, ResponseError, SSLConnection, UnixDomainSocketConnection
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import AuthenticationError, ConnectionError, TimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection

from worker.redis_url import Address, read

REDIS_SECONDS = 1.0  # to connect, and for an answer: two calls and a message fit into 3 s
SENTINEL_SECONDS = 0.5  # likewise, for one sentinel; then the next one is asked

_IS_REPLICA = "read only replica"  # in what a replica answers to a write, also to one of a script
# Of all sentinels together.
_IS_DOWN = "no sentinel knows a primary that is up"
_NO_NAME = "no sentinel knows the name of the primary"
_REFUSES = "no sentinel accepts the login"
_SILENT = "no sentinel answers"


def connect(url: str) -> Redis:
    """A client for the job records. It fails after ``REDIS_SECONDS`` instead of waiting longer.

    Its methods raise ``redis.exceptions.RedisError``.
    """
    return Redis.from_pool(make_pool(read(url), REDIS_SECONDS, decode_responses=True))


def make_pool(address: Address, seconds: float, **options: Any) -> ConnectionPool:
    """Connections to one Redis, each of which waits ``seconds`` at most, and tries nothing twice.

    After a failover they find the new primary: by its name, which is resolved anew, or through the sentinels.
    ``options`` are those of redis-py's connections, and of ``_Watched``.
    """
    tls: dict[str, Any] = {**address.tls}
    if tls:
        tls["ssl_check_hostname"] = tls["ssl_check_hostname"] == "true"
    options |= {**_describe(address.user, address.password, seconds), "db": address.database}
    if address.path:
        return _Pool(connection_class=_Socket, path=address.path, **options)
    if not address.primary:
        ((host, port),) = address.hosts
        return _Pool(connection_class=_Tls if tls else _Tcp, host=host, port=port, **tls, **options)
    of_sentinels = {**_describe(*address.sentinel_login, SENTINEL_SECONDS), **tls, "ssl": bool(tls)}
    options |= {**tls, "connection_class": _ManagedTls if tls else _ManagedTcp}
    return _ManagedPool(address.primary, _Sentinels(address.hosts, sentinel_kwargs=of_sentinels), **options)


def _describe(user: str, password: str, seconds: float) -> dict[str, Any]:
    waits = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "retry": Retry(NoBackoff(), 0)}
    return {"username": user or None, "password": password or None, **waits}


class _Watched(AbstractConnection):
    """A connection that ends when it turns out to lead to a replica. ``on_disconnect`` is told of each end."""

    led_to_replica = False

    def __init__(self, *, on_disconnect: Callable[[AbstractConnection], None] | None = None, **options: Any) -> None:
        self._on_disconnect = on_disconnect
        super().__init__(**options)

    def disconnect(self, *arguments: Any, **options: Any) -> None:
        super().disconnect(*arguments, **options)  # type: ignore[no-untyped-call]
        if self._on_disconnect:
            self._on_disconnect(self)

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)
        except ResponseError as error:
            if _IS_REPLICA not in str(error):
                raise
            self.led_to_replica = True
            self.disconnect()
            raise ConnectionError(str(error)) from None  # this one ends a pipeline, too


class _Tcp(_Watched, Connection):
    pass


class _Tls(_Watched, SSLConnection):
    pass


class _Socket(_Watched, UnixDomainSocketConnection):
    pass


class _ManagedTcp(SentinelManagedConnection, _Tcp):
    pass


class _ManagedTls(SentinelManagedConnection, _Tls):
    pass


class _Pool(ConnectionPool):
    """When one connection leads to a replica, so do those that wait: all of them are made anew."""

    def release(self, connection: Any) -> None:
        super().release(connection)
        if connection.led_to_replica:
            connection.led_to_replica = False
            self.disconnect(inuse_connections=False)


class _ManagedPool(_Pool, SentinelConnectionPool):
    """Each new connection asks the sentinels for the primary. They are left when the pool is closed."""

    def __init__(self, primary: str, sentinels: "_Sentinels", **options: Any) -> None:
        super().__init__(primary, sentinels, **options)  # type: ignore[no-untyped-call]

    def disconnect(self, inuse_connections: bool = True) -> None:
        super().disconnect(inuse_connections)
        if inuse_connections:
            self.sentinel_manager.close()


class _Sentinels(Sentinel):
    """Asks one sentinel after the other, first the one that has answered last. Several threads may ask at once."""

    def __init__(self, hosts: tuple[tuple[str, int], ...], sentinel_kwargs: dict[str, Any]) -> None:
        super().__init__(hosts, sentinel_kwargs=sentinel_kwargs)  # type: ignore[no-untyped-call]

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the primary with this name.

        Raises:
            ConnectionError: none of them knows it; ``explain`` has a row for each message.
        """
        problems = {_SILENT: ""}
        for sentinel in list(self.sentinels):
            try:
                answer: Any = sentinel.sentinel_masters()
            except AuthenticationError:
                problems[_REFUSES] = ""
            except (ConnectionError, TimeoutError) as error:
                problems[_SILENT] = f": {error}"
            else:
                primary = answer.get(service_name)
                if primary and self.check_master_state(primary, service_name):  # type: ignore[no-untyped-call]
                    self.sentinels = [sentinel, *(other for other in self.sentinels if other is not sentinel)]
                    return primary["ip"], primary["port"]
                problems[_IS_DOWN if primary else _NO_NAME] = ""
        problem = next(problem for problem in (_IS_DOWN, _NO_NAME, _REFUSES, _SILENT) if problem in problems)
        raise ConnectionError(problem + problems[problem])


SILENT = "it does not answer; try again later"

# A part of the text of an error → what it means, and what to do.
_LOGIN = "it does not accept the user or password of DIGITS_REDIS_URL"
_CLUSTER = "it is a cluster: name a Redis without cluster mode in DIGITS_REDIS_URL"
_NO_SENTINEL = "it is no sentinel: name sentinels in DIGITS_REDIS_URL, or use redis:// for a Redis"
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
    "unknown command 'sentinel'": _NO_SENTINEL,
    "unknown command `sentinel`": _NO_SENTINEL,
    "unknown command": "it lacks a command: Redis 5 or newer, or a Valkey, is needed",
    "mentioned in the script": "its user may not do what is needed: docs/running.md has the rule",
    _REFUSES: "its sentinels do not accept sentinel_username or sentinel_password of DIGITS_REDIS_URL",
    _NO_NAME: "its sentinels know no primary with the NAME in DIGITS_REDIS_URL",
    "cluster node": _CLUSTER,
    "moved ": _CLUSTER,
    "clusterdown": _CLUSTER,
    "hash slot": _CLUSTER,
    "same slot": _CLUSTER,
    "select is not allowed in cluster mode": _CLUSTER,
}
_TEMPORARY: Mapping[str, str] = {
    _IS_REPLICA: "it is a read-only replica: name its primary in DIGITS_REDIS_URL, or wait for the end of a failover",
    _SILENT: "none of its sentinels answers; try again later",
    _IS_DOWN: "its sentinels know no primary that is up: a failover may be under way; try again later",
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
