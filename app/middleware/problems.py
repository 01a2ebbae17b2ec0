"""The outermost layer: answers every error of the layers and routes within as a problem."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import errors


class Problems:
    """Lets no error pass, unless a part of the answer is on its way: then the connection has to be cut."""

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
            await errors.answer(error)(scope, receive, send)
