"""The layer that finds the route of a request, for the layers inside of it."""

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.calls import get_call


class Routing:
    """Notes the route in the call. HEAD has the route of GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (route := _find_route(scope)):
            call = get_call(scope)
            call.route, call.template = route.name, route.path
        await self._app(scope, receive, send)


def _find_route(scope: Scope) -> Route | None:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    for route in scope["app"].routes:
        if isinstance(route, Route) and method in (route.methods or ()) and route.path_regex.match(path):
            return route
    return None
