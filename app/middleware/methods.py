"""The layer for methods: HEAD is answered as GET without a body, OPTIONS and 405 name what a path allows."""

from fastapi import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

IS_HEAD = "digits.is_head"  # in the scope of a request that came as HEAD: an endpoint may do less


class Methods:
    """Knows the methods of every path from the application's routes (RFC 9110, 9.3.2, 9.3.7 and 15.5.6)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and (allowed := list_methods(scope)):
            await Response(status_code=204, headers={"Allow": allowed})(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._answer_head(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except HTTPException as error:
            if error.status_code == 405:
                error.headers = {"Allow": list_methods(scope)}
            raise

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As GET, up to the head: whatever would send a body is told that the client has gone."""
        ended = False

        async def send_head(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                await send(message)
            elif message.get("more_body") or not ended:
                ended = True
                await send({"type": "http.response.body", "body": b""})
                if message.get("more_body"):
                    raise OSError("the answer to HEAD has no body")  # which ends a stream

        try:
            await self._answer({**scope, "method": "GET", IS_HEAD: True}, receive, send_head)
        except Exception:  # FastAPI puts it into a group
            if not ended:
                raise


def list_methods(scope: Scope) -> str:
    """All methods of a path, as ``Allow`` has them; empty if no route has this path."""
    found: set[str] = set()
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    for route in scope["app"].routes:
        if isinstance(route, Route) and route.path_regex.match(path):
            found |= route.methods or set()
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found | {"OPTIONS"})) if found else ""
