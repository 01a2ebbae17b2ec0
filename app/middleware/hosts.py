"""The layer that knows the names of this service: no page of another site can use it through a browser.

A site can let its name point to this machine (DNS rebinding). Its pages then reach the service as
their own, so requests under names that are not ours are refused. A page may send requests to any
address without reading the answers, so those that change something are refused, too.
"""

import re
from collections.abc import Collection
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import BadRequestError, ForbiddenError, MisdirectedError
from app.settings import MAPPED, is_loopback

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Hosts:
    """Refuses requests without one ``Host`` (400), under a foreign one (421), and foreign changes (403).

    The service answers to loopback's names, to the address that it listens on or that the connection
    came in at, and to ``names``, each with any port. A request that may change something and has an ``Origin`` (which
    browsers send) must come from a page of the service itself, of one of ``names``, or of one of ``origins``.
    """

    def __init__(self, app: ASGIApp, listening: str, names: Collection[str], origins: Collection[str] = ()) -> None:
        self._app = app
        self._listening = listening
        self._names = frozenset(names)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if not hosts and scope["http_version"] == "1.0":  # which has no such header
            return
        if len(hosts) != 1:
            raise BadRequestError(f"the request has {len(hosts)} Host headers instead of one", field="Host")
        host = _read_name(hosts[0])
        if not host:
            raise BadRequestError("the Host header is not a host", field="Host")
        here = (self._listening, scope["server"][0].removeprefix(MAPPED))
        if not (host in self._names or host in here or is_loopback(host)):
            detail = f"this service is not {host}; its operator can add this name to DIGITS_ALLOWED_HOSTS"
            raise MisdirectedError(detail, field="Host")
        if scope["method"] in SAFE_METHODS:
            return
        for name, value in scope["headers"]:
            if name == b"origin" and not self._is_ours(value.decode("latin-1"), hosts[0].decode("latin-1")):
                detail = "a page of another site may change nothing here; its operator can add the site to "
                raise ForbiddenError(detail + "DIGITS_ALLOWED_HOSTS or DIGITS_CORS_ORIGINS", field="Origin")

    def _is_ours(self, origin: str, host: str) -> bool:
        if origin in self._origins:
            return True
        authority = origin.partition("://")[2]
        return bool(authority) and (authority == host or _read_name(authority.encode("latin-1")) in self._names)


@lru_cache
def _read_name(authority: bytes) -> str:
    """The host in ``Host``, in lower case and without a port, brackets or the last dot; empty if it is malformed."""
    found = re.fullmatch(rb"(?:\[([0-9a-f:.]+)\]|([\w.-]+?)\.?)(?::\d*)?", authority.lower(), re.ASCII)
    return (found[1] or found[2]).decode() if found else ""
