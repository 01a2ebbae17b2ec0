"""The URL of a Redis, in the one form that redis-py and kombu understand alike.

They differ in more than one would think: kombu takes no database from ``?db=``, and checks no certificate unless it
is told to.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

FORM = (
    "should be redis://[user:password@]host[:port][/database], or rediss:// for TLS; "
    "in the password, write / as %2F, # as %23, ? as %3F, @ as %40, % as %25"
)
# The options of TLS → what they may be; of a file, None.
TLS_OPTIONS: Mapping[str, tuple[str, ...] | None] = {
    "ssl_cert_reqs": ("none", "optional", "required"),
    "ssl_check_hostname": ("true", "false"),
    "ssl_ca_certs": None,
    "ssl_certfile": None,
    "ssl_keyfile": None,
}

_CHECKS = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}


def normalise(url: str, ca: Path | None = None) -> str:
    """The same Redis with its database in the path. For TLS, the query says that certificate and name are checked.

    ``ca`` is a file with the certificates of the authority that has signed the server's.

    Raises:
        ValueError: it is no such URL; the message has no part of it, since that may be a part of the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        raise ValueError(FORM) from None
    if parts.scheme not in ("redis", "rediss") or parts.fragment:
        raise ValueError(FORM)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    database = _find_database(parts.path.strip("/"), options.pop("db", None))
    known = TLS_OPTIONS if parts.scheme == "rediss" else {}
    if not options.keys() <= known.keys():
        raise ValueError(f"knows no options but {', '.join(('db', *known))}; {FORM}")
    for name, value in options.items():
        allowed = known[name]
        if allowed and value not in allowed:
            raise ValueError(f"{name} should be {' or '.join(allowed)}")
        if not allowed and not Path(value).is_file():
            raise ValueError(f"{name} should name a file")
    if parts.scheme == "rediss":
        options = {**_CHECKS, **({"ssl_ca_certs": str(ca.absolute())} if ca else {}), **options}
    host = parts.hostname or "localhost"
    where = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{_join_login(parts)}{where}:{port}/{database}" + (
        f"?{urlencode(options)}" if options else ""
    )


def _find_database(path: str, option: str | None) -> int:
    named = {name for name in (path, option) if name}
    if len(named) > 1 or not all(re.fullmatch("[0-9]{1,9}", name) for name in named):
        raise ValueError(f"should name one database, by its number; it {FORM}")
    return int(named.pop()) if named else 0


def _join_login(parts: SplitResult) -> str:
    user, password = (quote(unquote(part or ""), safe="") for part in (parts.username, parts.password))
    return f"{user}:{password}@" if user or password else ""
