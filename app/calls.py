"""What the layers know of one request: they share it through the ASGI scope, and the outermost one reads it last."""

import itertools
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network

from starlette.types import Scope

from app.keys import Key

REQUEST_ID = "X-Request-ID"

_NAME = "digits.call"

# Content-Security-Policy of an answer that is no page: it is data, and nothing of it may run.
DATA_POLICY = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_PREFIX = secrets.token_hex(6)  # of this process
_numbers = itertools.count()


async def _allow(count: int, field: str) -> None:
    """There is no limit."""


@lru_cache
def _find_network(address: str) -> str:
    try:
        found = ip_address(address.removeprefix("::ffff:"))
    except ValueError:  # a socket without addresses
        return address
    return str(ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


@dataclass(slots=True)
class Call:
    """One request. The layers fill in what they learn of it."""

    request_id: str
    route: str = ""  # the name of its route; empty if there is none
    address: str = ""  # of the client
    key: Key | None = None  # None: it came without one
    policy: bytes = DATA_POLICY  # Content-Security-Policy of the answer; a page sets its own
    # A route calls it with a number of images, and with the field that asks for them, before it draws them.
    take_images: Callable[[int, str], Awaitable[None]] = _allow

    @property
    def client(self) -> str:
        """Who asks: the name of a key, or else an address; of IPv6, the network that one customer gets."""
        return f"key {self.key.name}" if self.key else f"address {_find_network(self.address)}"


def make_request_id() -> str:
    """An id for a request that came without one."""
    return f"{_PREFIX}{next(_numbers):06x}"


def begin_call(scope: Scope) -> Call:
    """Make the call of a new request. Its id is the client's, if that is 1 to 128 plain characters."""
    client = scope.get("client")
    call = Call(_read_id(scope) or make_request_id(), address=client[0] if client else "")
    scope[_NAME] = call
    return call


def _read_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if re.fullmatch(rb"[\w.:/+=-]{1,128}", value, re.ASCII) else ""
    return ""


def get_call(scope: Scope) -> Call:
    """The call of a request, in any layer and route."""
    call: Call = scope[_NAME]
    return call
