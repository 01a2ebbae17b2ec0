"""The layer for a service behind a prefix, as ``https://example.org/digits/``."""

from urllib.parse import quote

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware.methods import list_methods


class Prefix:
    """Puts the prefix before the path, unless the proxy has left it there, and ends paths without a slash.

    Routes match what follows the prefix (ASGI, ``root_path``); what names an address puts it in front.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._prefix:
                scope = self._add(scope)
            if (path := self._correct(scope)) != scope["path"]:
                query = scope["query_string"].decode("latin-1")
                await RedirectResponse(quote(path) + (f"?{query}" if query else ""))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _correct(self, scope: Scope) -> str:
        """The path at which there is a route, if it is this one but for a slash at its end."""
        path: str = scope["path"]
        if path == self._prefix:  # addresses in the page are relative to what follows the slash
            return path + "/"
        shorter = path.rstrip("/")
        is_meant = shorter != path and not list_methods(scope) and list_methods({**scope, "path": shorter})
        return shorter if is_meant else path

    def _add(self, scope: Scope) -> Scope:
        path: str = scope["path"]
        if not is_below(path, self._prefix):
            path = self._prefix + path
        return {**scope, "root_path": self._prefix, "path": path}


def is_below(path: str, prefix: str) -> bool:
    """Whether a path begins with this prefix, as a whole part of it: /digits/x is below /digits, /digits2 is not."""
    return path == prefix or path.startswith(f"{prefix}/")
