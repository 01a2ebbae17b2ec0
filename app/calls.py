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
from app.settings import MAPPED
from worker.logs import get_trace_id

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
        found = ip_address(address.removeprefix(MAPPED))
    except ValueError:  # a socket without addresses
        return address
    return str(ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Call:
    """One request. The layers fill in what they learn of it."""

    request_id: str
    client: str = ""  # its address
    parent: bytes = b""  # what it sent as traceparent
    route: str = ""  # the name of its route; empty if there is none
    template: str = ""  # the path of that route, with the names of its parameters
    key: Key | None = None  # None: it came without one
    policy: bytes = DATA_POLICY  # Content-Security-Policy of the answer; a page sets its own
    rest: tuple[tuple[bytes, bytes], ...] = ()  # headers that say what is left of the limits of its owner
    # A route calls it with a number of images, and with the field that asks for them, before it draws them.
    take_images: Callable[[int, str], Awaitable[None]] = _allow

    @property
    def owner(self) -> str:
        """Whose limits count: those of a key, or else of an address; of IPv6, of the network that one customer gets."""
        return f"key {self.key.name}" if self.key else f"address {_find_network(self.client)}"

    @property
    def traceparent(self) -> str | None:
        """The client's place in a trace (W3C Trace Context), if it sent a valid one."""
        found = _TRACEPARENT.match(self.parent)
        if found is None:
            return None
        rest = self.parent[found.end() :]  # a later version may have more
        return found[0].decode() if not rest or (found[1] != b"00" and rest.startswith(b"-")) else None

    def list_facts(self) -> dict[str, str]:
        """What log lines say of it."""
        traceparent = self.traceparent
        facts = {
            "request_id": self.request_id,
            "client": self.client,
            "key": self.key.name if self.key else "",
            "trace_id": get_trace_id(traceparent) if traceparent else "",
        }
        return {name: value for name, value in facts.items() if value}


def make_request_id() -> str:
    """An id for a request that came without one."""
    return f"{_PREFIX}{next(_numbers):06x}"


def begin_call(scope: Scope) -> Call:
    """Make the call of a new request. Its id is the client's, if that is 1 to 128 plain characters."""
    given = parent = b""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = given or value
        elif name == b"traceparent":
            parent += value  # two of them are no valid one
    is_plain = given and re.fullmatch(rb"[\w.:/+=-]{1,128}", given, re.ASCII)
    client = scope.get("client")
    call = Call(given.decode() if is_plain else make_request_id(), client[0] if client else "", parent)
    scope[_NAME] = call
    return call


def get_call(scope: Scope) -> Call:
    """The call of a request, in any layer and route."""
    call: Call = scope[_NAME]
    return call
