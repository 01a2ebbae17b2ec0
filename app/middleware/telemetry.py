"""The layer that counts and times every request."""

import re
import time

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.calls import get_call
from app.telemetry import Telemetry
from models.archs import ARCHS

_ARCH = "|".join(ARCHS)
_IN_QUERY = re.compile(rf"(?:^|&)arch=({_ARCH})(?:&|$)".encode())
_IN_PATH = re.compile(rf"/({_ARCH})(?:/|$)")


class Counting:
    """Counts a request when its answer begins: a stream counts at its start, and its length is no latency."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._telemetry: Telemetry | None = None  # the application's, from the first request on: it is soon at hand
        self._templates: dict[str, str] = {}  # the name of each route → its path with the names of its parameters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        telemetry = self._telemetry or self._look_around(scope)
        templates = self._templates

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = templates.get(get_call(scope).route, "")
                arch = _find_arch(scope, route) if route else ""
                seconds = time.perf_counter() - began
                telemetry.count_request(route, scope["method"], message["status"], arch, seconds)
            await send(message)

        await self._app(scope, receive, send_and_count)

    def _look_around(self, scope: Scope) -> Telemetry:
        app = scope["app"]
        self._templates = {route.name: route.path for route in app.routes if isinstance(route, Route)}
        self._telemetry = found = app.state.telemetry
        assert isinstance(found, Telemetry)
        return found


def _find_arch(scope: Scope, route: str) -> str:
    """The architecture in the query or the path of a request to a route; empty if there is none."""
    if in_query := _IN_QUERY.search(scope["query_string"]):
        return in_query[1].decode()
    in_path = _IN_PATH.search(scope["path"]) if "{arch}" in route else None
    return in_path[1] if in_path else ""
