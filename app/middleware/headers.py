"""The layer that puts headers on every answer: the id of the request, and what browsers must not do with the answer."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.calls import REQUEST_ID, get_call

_ID = REQUEST_ID.lower().encode()

# Of answers that have no policy of their own, as the page has: they are data, and nothing of them may run.
POLICY = (
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),  # for browsers that know no frame-ancestors
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_RESOURCE_POLICY = b"cross-origin-resource-policy"


class Headers:
    """Adds the headers that an answer has not yet. ``is_shared``: pages of other sites may show our pictures."""

    def __init__(self, app: ASGIApp, *, is_shared: bool) -> None:
        self._app = app
        self._defaults = (*POLICY, (_RESOURCE_POLICY, b"cross-origin" if is_shared else b"same-origin"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                missing = [header for header in self._defaults if header[0] not in own]
                message["headers"] = [*message["headers"], *missing, (_ID, get_call(scope).request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_with_headers)
