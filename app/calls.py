"""What the layers know of one request: they share it through the ASGI scope, and the outermost one reads it last."""

import re
import secrets
from dataclasses import dataclass

from starlette.types import Scope

from app.keys import Key

REQUEST_ID = "X-Request-ID"

_NAME = "digits.call"


@dataclass(slots=True)
class Call:
    """One request. The layers fill in what they learn of it."""

    request_id: str
    route: str = ""  # the name of its route; empty if there is none
    key: Key | None = None  # None: it came without one


def begin_call(scope: Scope) -> Call:
    """Make the call of a new request. Its id is the client's, if that is 1 to 128 plain characters."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    is_plain = re.fullmatch(rb"[\w.:/+=-]{1,128}", given, re.ASCII)
    call = Call(given.decode() if is_plain else secrets.token_hex(8))
    scope[_NAME] = call
    return call


def get_call(scope: Scope) -> Call:
    """The call of a request, in any layer and route."""
    call: Call = scope[_NAME]
    return call
