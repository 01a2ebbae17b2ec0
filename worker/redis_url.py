"""The URL of a Redis → where it is: the one description from which all clients are made.

``worker/connections.py`` makes them. Neither redis-py nor kombu reads the URL, since they read some differently.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

FORM = (
    "should be redis://[user:password@]host[:port][/database], "
    "redis+sentinel://[user:password@]host[:port][,host[:port]…]/NAME[/database], "
    "either with rediss for TLS, or unix://[user:password@]/path/of/socket[?db=database]; "
    "in the password, write / as %2F, # as %23, ? as %3F, @ as %40, % as %25"
)
# Scheme → the port of its hosts.
_PORTS: Mapping[str, int] = {
    "redis": 6379, "rediss": 6379, "redis+sentinel": 26379, "rediss+sentinel": 26379, "unix": 0,
}  # fmt: skip
# The options of TLS → what they may be; of a file, None.
TLS_OPTIONS: Mapping[str, tuple[str, ...] | None] = {
    "ssl_cert_reqs": ("none", "optional", "required"),
    "ssl_check_hostname": ("true", "false"),
    "ssl_ca_certs": None,
    "ssl_certfile": None,
    "ssl_keyfile": None,
}
_CHECKS = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Address:
    """Where a Redis is, and how to log in. As text it has no secret."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]  # of the Redis, or of its sentinels; of a socket, none
    database: int
    path: str = ""  # of a socket
    primary: str = ""  # the name that sentinels know it by; empty: no sentinels
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    options: dict[str, str] = field(default_factory=dict, repr=False)  # of TLS, and the sentinels' login

    @property
    def tls(self) -> dict[str, str]:
        """The options of TLS; empty: no TLS. Certificate and name are checked unless they say otherwise."""
        if not self.scheme.startswith("rediss"):
            return {}
        return {**_CHECKS, **{name: value for name, value in self.options.items() if name in TLS_OPTIONS}}

    @property
    def sentinel_login(self) -> tuple[str, str]:
        """User and password of the sentinels, which may be empty."""
        user, password = (self.options.get(name, "") for name in _SENTINEL_OPTIONS)
        return user, password

    @property
    def url(self) -> str:
        """It as a URL, with its secrets."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user or self.password else ""
        options = {**self.options, **self.tls}
        if self.path:
            place, options = quote(self.path), {**options, "db": str(self.database)}
        else:
            place = "/".join(filter(None, (self._join_hosts(), self.primary, str(self.database))))
        return f"{self.scheme}://{login}{place}" + (f"?{urlencode(options)}" if options else "")

    def __str__(self) -> str:
        place = f"the primary of {self.primary} that {self._join_hosts()} name" if self.primary else self._join_hosts()
        return f"redis at {self.path or place}, database {self.database}"

    def _join_hosts(self) -> str:
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)


def read(url: str) -> Address:
    """The address in a URL.

    Raises:
        ValueError: it is no such URL; the message has no part of it, since that may be a part of the password.
    """
    scheme, _, rest = url.strip().partition("://")
    scheme = scheme.lower()
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    login, _, places = authority.rpartition("@")
    if scheme not in _PORTS or "#" in url:
        raise ValueError(FORM)
    options = _read_options(scheme, query)
    database = options.pop("db", "")
    is_watched = scheme.endswith("+sentinel")
    hosts: tuple[tuple[str, int], ...] = ()
    primary = socket = ""
    if scheme == "unix":
        if places or not path:
            raise ValueError(FORM)
        socket, path = f"/{unquote(path)}", ""
    else:
        hosts = tuple(_read_host(place, _PORTS[scheme]) for place in places.split(","))
        if is_watched:
            primary, _, path = path.partition("/")
        if not _NAME.fullmatch(primary) if is_watched else len(hosts) > 1:
            raise ValueError(FORM)
    user, _, password = login.partition(":")
    return Address(
        scheme,
        hosts,
        _read_database(path.strip("/"), database),
        path=socket,
        primary=primary,
        user=unquote(user),
        password=unquote(password),
        options=options,
    )


def normalise(url: str, ca: Path | None = None) -> str:
    """The same Redis, written in full. For TLS, the query says that certificate and name are checked.

    ``ca`` is a file with the certificates of the authority that has signed the server's.

    Raises:
        ValueError: as ``read``.
    """
    address = read(url)
    if ca and address.tls:
        address.options.setdefault("ssl_ca_certs", str(ca.absolute()))
    return address.url


def _read_options(scheme: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    known: Mapping[str, tuple[str, ...] | None] = {
        **(TLS_OPTIONS if scheme.startswith("rediss") else {}),
        **dict.fromkeys(_SENTINEL_OPTIONS if scheme.endswith("+sentinel") else (), ()),
        "db": (),
    }
    if not options.keys() <= known.keys():
        raise ValueError(f"knows no options but {', '.join(known)}; {FORM}")
    for name, value in options.items():
        allowed = known[name]
        if allowed and value not in allowed:
            raise ValueError(f"{name} should be {' or '.join(allowed)}")
        if allowed is None and not Path(value).is_file():
            raise ValueError(f"{name} should name a file")
    return options


def _read_host(place: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{place}")
        if parts.netloc != place:
            raise ValueError
        return parts.hostname or "localhost", parts.port or port
    except ValueError:
        raise ValueError(FORM) from None


def _read_database(path: str, option: str) -> int:
    named = {name for name in (path, option) if name}
    if len(named) > 1 or not all(re.fullmatch("[0-9]{1,9}", name) for name in named):
        raise ValueError(f"should name one database, by its number; it {FORM}")
    return int(named.pop()) if named else 0
