"""The outermost layer: answers every error of the inner layers and routes with a problem."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import errors


class Problems:
    """Answers every error. If part of an answer is already sent, it raises instead, which cuts the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            if begun:
                raise
            await errors.answer(error, f"{scope['method']} {scope['path']}")(scope, receive, send)
