"""The outermost layer: begins the call of each request."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.calls import begin_call


class Calls:
    """Puts a :class:`app.calls.Call` into the scope, which the inner layers and the route fill in."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            begin_call(scope)
        await self._app(scope, receive, send)
