"""URLs of Redis: both clients understand the same, or it is refused without a word of it."""

from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from kombu.connection import Connection
from redis import ConnectionPool, ResponseError
from redis.exceptions import ConnectionError

from worker.connections import explain
from worker.redis_url import TLS_OPTIONS, normalise


@pytest.mark.parametrize(
    ("url", "user", "password", "database"),
    [
        ("redis://host", None, None, 0),
        ("redis://host:6379/", None, None, 0),
        ("redis://host/3", None, None, 3),
        ("redis://host/?db=3", None, None, 3),
        ("redis://host/3?db=3", None, None, 3),
        ("redis://:secret@host:6379/0", None, "secret", 0),
        ("redis://worker:secret@host:6379/1", "worker", "secret", 1),
        ("redis://:p%40%2F%23%3F%25%3A%20+&=ü@host/2", None, "p@/#?%: +&=ü", 2),
        ("redis://:100%@host/2", None, "100%", 2),
        ("redis://:a@b@host/2", None, "a@b", 2),
        ("redis://me%3A:a:b@host", "me:", "a:b", 0),
        ("rediss://:secret@host:6380/4", None, "secret", 4),
    ],
)
def test_both_clients_find_the_same(url: str, user: str | None, password: str | None, database: int) -> None:
    url = normalise(url)
    of_redis = ConnectionPool.from_url(url).connection_kwargs
    assert (of_redis["host"], of_redis.get("db", 0)) == ("host", database)
    assert (of_redis.get("username") or None, of_redis.get("password") or None) == (user, password)
    with Connection(url) as connection:  # type: ignore[no-untyped-call]
        assert (connection.hostname, int(connection.virtual_host)) == ("host", database)
        assert (connection.userid or None, connection.password or None) == (user, password)


def test_an_address_of_ipv6_and_no_host_are_known() -> None:
    assert ConnectionPool.from_url(normalise("redis://[::1]:7000/1")).connection_kwargs["host"] == "::1"
    assert normalise("redis:///1") == "redis://localhost:6379/1"


@pytest.mark.parametrize(
    "url",
    [
        "redis://host/secret",
        "redis://host/1?db=2",
        "redis://host/-1",
        "redis://host/²",
        "redis://host/0?socket_timeout=5",
        "redis://host/0?secret",
        "redis://host/0?ssl_cert_reqs=none",  # no TLS
        "redis://host/0#secret",
        "redis://:secret/sesame@host/0",
        "redis://:secret?sesame@host/0",
        "redis://:secret#sesame@host/0",
        "redis://:secret[sesame@host/0",
        "redis://host:secret/0",
        "redis://host:99999/0",
        "redis-cluster://secret@host",
        "unix:///secret",
        "host:6379",
        "",
    ],
)
def test_what_would_break_later_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(ValueError, match="redis://") as refused:
        normalise(url)
    assert "secret" not in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_tls_is_checked_unless_the_url_says_otherwise(tmp_path: Path) -> None:
    assert "ssl_cert_reqs=required&ssl_check_hostname=true" in normalise("rediss://host")
    assert "ssl_cert_reqs=none" in normalise("rediss://host?ssl_cert_reqs=none")
    (tmp_path / "file").touch()
    for name, allowed in TLS_OPTIONS.items():
        for value in allowed or (str(tmp_path / "file"),):
            assert dict(parse_qsl(normalise(f"rediss://host?{name}={value}").partition("?")[2]))[name] == value


@pytest.mark.parametrize("option", ["ssl_cert_reqs=CERT_NONE", "ssl_check_hostname=1", "ssl_ca_certs=/nowhere"])
def test_an_option_of_tls_that_would_break_later_is_named(option: str) -> None:
    with pytest.raises(ValueError, match=option.partition("=")[0]):
        normalise(f"rediss://host?{option}")


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ConnectionError("Error 111 connecting to localhost:6379. Connection refused."), "does not answer"),
        (ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed"), "DIGITS_REDIS_CA"),
        (ConnectionError("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"), "does not speak TLS"),
        (ConnectionError("max number of clients reached"), "maxclients"),
        (ResponseError("MOVED 3999 127.0.0.1:6381"), "is a cluster"),
        (ResponseError("something that nobody has seen yet"), "the log has its words"),
    ],
)
def test_an_error_is_explained(error: Exception, meaning: str) -> None:
    assert meaning in explain(error)
