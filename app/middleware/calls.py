"""The outermost layer: begins the call of each request."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.calls import begin_call
from worker.logs import subject


class Calls:
    """Puts a :class:`app.calls.Call` into the scope, which the inner layers and the route fill in.

    Log lines that are written from here on are about it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            subject.set(begin_call(scope))
        await self._app(scope, receive, send)
