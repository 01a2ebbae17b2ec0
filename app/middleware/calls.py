"""The outermost layer: begins the call of each request, and completes its answer."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.calls import REQUEST_ID, begin_call
from worker.logs import subject

_ID = REQUEST_ID.lower().encode()
CONTENT_POLICY = b"content-security-policy"
_RESOURCE_POLICY = b"cross-origin-resource-policy"

# What browsers must not do with an answer.
FIXED = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),  # for browsers that know no frame-ancestors
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Calls:
    """Puts a :class:`app.calls.Call` into the scope, which the inner layers and the route fill in.

    Log lines that are written from here on are about it. When an answer begins, it is counted, so the length of a
    stream is no latency. And it gets the headers of every answer: the id of the request, what browsers must not do
    with the answer, and what is left of the limits. One layer does all of this, because each costs a small picture
    a hundredth of its time. ``is_shared``: pages of other sites may show our pictures.
    """

    def __init__(self, app: ASGIApp, *, is_shared: bool) -> None:
        self._app = app
        self._fixed = (*FIXED, (_RESOURCE_POLICY, b"cross-origin" if is_shared else b"same-origin"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        call = begin_call(scope)
        subject.set(call)

        async def send_completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = ((CONTENT_POLICY, call.policy), (_ID, call.request_id.encode()))
                message["headers"] = [*message["headers"], *self._fixed, *own, *call.rest]
                what = (call.template, scope["method"], message["status"], scope["path"], scope["query_string"])
                scope["app"].state.telemetry.count_request(*what, time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, send_completed)
