"""The layer that asks for a key (RFC 6750)."""

from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlencode

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.calls import get_call
from app.errors import ForbiddenError, UnauthorizedError
from app.keys import KeyRing
from app.scopes import COOKIE, LOCAL, find_scope
from app.settings import is_loopback

# What a proxy adds: the connection comes from this machine, the request does not.
_FORWARDED = frozenset({b"x-forwarded-for", b"x-real-ip", b"forwarded"})


class Keys:
    """Refuses requests without a good key (401) and those whose key lacks the scope of the route (403).

    A key comes as ``Authorization: Bearer``, as ``X-API-Key`` or in a cookie; the first of these counts. A browser that
    opens a page without one is sent to the page that asks for it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ring: KeyRing = scope["app"].state.key_ring
        call = get_call(scope)
        text = _read_key(scope)
        call.key = ring.find(text) if text else None
        needed = find_scope(call.route)
        if needed is None or (call.key and call.key.may(needed)) or (call.route in LOCAL and _is_local(scope)):
            await self._app(scope, receive, _make_private(send) if needed else send)
            return
        if text and not call.key:
            ring.warn(call.client, text)
        if _is_page(scope):
            await _ask_for_key(scope, needed if call.key else "")(scope, receive, send)
        elif call.key:
            raise ForbiddenError(
                f"the key {call.key.name} may not do this: it lacks the scope {needed}",
                field="scope",
                bound={"needed": needed},
                headers={"WWW-Authenticate": f'Bearer realm="digits", error="insufficient_scope", scope="{needed}"'},
            )
        else:
            said = ', error="invalid_token"' if text else ""
            raise UnauthorizedError(
                "the key is not good: it was revoked, or not copied as a whole"
                if text
                else "this needs a key: send it as Authorization: Bearer KEY, or as X-API-Key",
                headers={"WWW-Authenticate": f'Bearer realm="digits"{said}'},
            )


def _read_key(scope: Scope) -> str:
    headers = dict(scope["headers"])
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":  # another scheme is for a proxy
        return str(value.strip().decode("latin-1"))
    if b"x-api-key" in headers:
        return str(headers[b"x-api-key"].strip().decode("latin-1"))
    return read_cookie(headers.get(b"cookie", b""))


def read_cookie(header: bytes) -> str:
    """The key in a ``Cookie`` header; empty if it has none."""
    if COOKIE.encode() not in header:
        return ""
    try:
        found = SimpleCookie(header.decode("latin-1")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _is_local(scope: Scope) -> bool:
    """Whether a process of this machine has sent the request, and no proxy of this machine has passed it on."""
    if any(name in _FORWARDED for name, _ in scope["headers"]):
        return False
    return bool(scope["client"]) and is_loopback(scope["client"][0])


def _is_page(scope: Scope) -> bool:
    """Whether a browser opens a page: no script and no other program asks for HTML."""
    accepts = any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
    return accepts and scope["method"] in ("GET", "HEAD")


def _ask_for_key(scope: Scope, lacking: str) -> RedirectResponse:
    root: str = scope.get("root_path", "")
    query = scope["query_string"].decode("latin-1")
    here = scope["path"].removeprefix(root) + (f"?{query}" if query else "")
    asked = {"next": here, **({"lacking": lacking} if lacking else {})}
    return RedirectResponse(f"{root}/login?{urlencode(asked)}", 303, {"Cache-Control": "no-store"})


def _make_private(send: Send) -> Send:
    """An answer that needed a key is for its owner alone: no cache between may give it to others."""

    async def send_private(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                (name, value.replace(b"public", b"private") if name == b"cache-control" else value)
                for name, value in message["headers"]
            ]
        await send(message)

    return send_private
