"""The layer that puts headers on every answer.

They are the id of the request, what browsers must not do with the answer, and what is left of the limits.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.calls import REQUEST_ID, get_call

_ID = REQUEST_ID.lower().encode()
CONTENT_POLICY = b"content-security-policy"
_RESOURCE_POLICY = b"cross-origin-resource-policy"

FIXED = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),  # for browsers that know no frame-ancestors
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Headers:
    """Adds the headers. ``is_shared``: pages of other sites may show our pictures."""

    def __init__(self, app: ASGIApp, *, is_shared: bool) -> None:
        self._app = app
        self._fixed = (*FIXED, (_RESOURCE_POLICY, b"cross-origin" if is_shared else b"same-origin"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = get_call(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = ((CONTENT_POLICY, call.policy), (_ID, call.request_id.encode()))
                message["headers"] = [*message["headers"], *self._fixed, *own, *call.rest]
            await send(message)

        await self._app(scope, receive, send_with_headers)
