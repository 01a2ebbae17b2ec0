"""URLs of Redis: they are understood, or refused without a word of them."""

from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from redis import ResponseError
from redis.exceptions import ConnectionError

from worker.connections import explain, make_pool
from worker.redis_url import TLS_OPTIONS, Address, normalise, read


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
        ("redis://:a[b@host/2", None, "a[b", 2),
        ("redis://me%3A:a:b@host", "me:", "a:b", 0),
        ("rediss://:secret@host:6380/4", None, "secret", 4),
    ],
)
def test_host_login_and_database_are_found(url: str, user: str | None, password: str | None, database: int) -> None:
    found = make_pool(read(url), 1.0).connection_kwargs
    assert (found["host"], found["db"]) == ("host", database)
    assert (found["username"], found["password"]) == (user, password)
    assert read(normalise(url)).url == normalise(url)


def test_an_address_of_ipv6_and_no_host_are_known() -> None:
    assert read("redis://[::1]:7000/1").hosts == (("::1", 7000),)
    assert normalise("redis:///1") == "redis://localhost:6379/1"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis+sentinel://host/main", Address("redis+sentinel", (("host", 26379),), 0, primary="main")),
        (
            "redis+sentinel://me:p%40ss@one,two:7000,[::1]:7001/main-1.a_b/3?sentinel_username=x&sentinel_password=y%26",
            Address(
                "redis+sentinel", (("one", 26379), ("two", 7000), ("::1", 7001)), 3, "", "main-1.a_b", "me", "p@ss",
                {"sentinel_username": "x", "sentinel_password": "y&"},
            ),
        ),
        ("unix:///run/redis.sock", Address("unix", (), 0, "/run/redis.sock")),
        ("unix://me:p%40ss@/run/a%20socket?db=2", Address("unix", (), 2, "/run/a socket", "", "me", "p@ss")),
    ],
)  # fmt: skip
def test_sentinels_and_sockets_are_found(url: str, address: Address) -> None:
    assert read(url) == address
    assert read(normalise(url)) == address


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
        "redis://[secret/0",
        "redis://host,secret/0",
        "redis+sentinel://host",
        "redis+sentinel://host/",
        "redis+sentinel://host/secret sesame",
        "redis+sentinel://host,other:secret/main",
        "redis+sentinel://host/main/secret",
        "redis+sentinel://host/main/1/2",
        "redis+sentinel://:secret/sesame@host/main",
        "redis+sentinel://host/main?ssl_cert_reqs=none",  # no TLS
        "redis://host/0?sentinel_password=secret",
        "unix://",
        "unix:///",
        "unix://secret/sesame",
        "unix:///path?socket=secret",
        "redis://host:secret/0",
        "redis://host:99999/0",
        "redis-cluster://secret@host",
        "unix+sentinel:///secret",
        "host:6379",
        "",
    ],
)
def test_what_would_break_later_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis\+sentinel://.*unix://") as refused:
        normalise(url)
    assert "secret" not in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_tls_is_checked_unless_the_url_says_otherwise(tmp_path: Path) -> None:
    assert "ssl_cert_reqs=required&ssl_check_hostname=true" in normalise("rediss://host")
    assert "ssl_cert_reqs=none" in normalise("rediss://host?ssl_cert_reqs=none")
    assert "ssl_cert_reqs=required&ssl_check_hostname=true" in normalise("rediss+sentinel://host/main")
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
