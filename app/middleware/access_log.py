"""The layer for the access log: it sees every answer of the layers inside of it, and streams to their end."""

import time
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access import REFUSAL, log_answer
from app.errors import CLIENT_GONE


class AccessLog:
    """Logs each answer when it ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR  # of the server, if nothing is sent
        size = 0
        is_complete = False

        async def send_counted(message: Message) -> None:
            nonlocal status, size, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += 0 if scope["method"] == "HEAD" else len(message.get("body", b""))  # the server drops that body
                is_complete = status != CLIENT_GONE and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            if REFUSAL in scope:
                status, size = scope[REFUSAL]
            query = scope["query_string"]
            target = scope["raw_path"] + (b"?" + query if query else b"")
            log_answer(scope, scope["method"], target, status, size, time.perf_counter() - began, is_complete)
