"""The layer that limits the size of request bodies."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import TooLargeError

MAX_BODY_BYTES = 64 * 1024


class BodyLimit:
    """Refuses bodies over ``MAX_BODY_BYTES`` with a TooLargeError.

    A body that announces its length is refused before it is read. A body that arrives in pieces is
    counted while a route reads it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > MAX_BODY_BYTES:
                raise _make_error()
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise _make_error()
            return message

        await self._app(scope, receive_counted, send)


def _make_error() -> TooLargeError:
    return TooLargeError(f"the body has more than {MAX_BODY_BYTES} bytes", field="body", bound={"le": MAX_BODY_BYTES})
