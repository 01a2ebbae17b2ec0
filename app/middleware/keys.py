"""The layer that asks for a key (RFC 6750)."""

from urllib.parse import urlencode

from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.calls import get_call
from app.errors import BadRequestError, ForbiddenError, UnauthorizedError
from app.keys import KeyRing
from app.middleware.prefix import is_below
from app.scopes import COOKIE, LOCAL, find_scope
from app.settings import is_loopback
from app.views import is_visit

# What a proxy adds: the connection comes from this machine, the request does not.
_FORWARDED = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)


class Keys:
    """Refuses requests without a good key (401) and those whose key lacks the scope of the route (403).

    A key comes as ``Authorization: Bearer``, as ``X-API-Key`` or in a cookie; the first of these counts. A browser that
    opens a page without one is sent to the page that asks for it.
    """

    def __init__(self, app: ASGIApp, *, has_proxy: bool) -> None:
        self._app = app
        self._has_proxy = has_proxy  # all that it passes on would come from this machine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ring: KeyRing = scope["app"].state.key_ring
        call = get_call(scope)
        text = _read_key(scope)
        call.key = ring.find(text) if text else None
        needed = find_scope(call.route)
        if (
            needed is None
            or (call.key and call.key.may(needed))
            or (call.route in LOCAL and not self._has_proxy and _is_local(scope))
        ):
            await self._app(scope, receive, _make_private(send) if needed else send)
            return
        if text and not call.key:
            ring.warn(call.client, text)
        if is_visit(scope):
            await ask_for_key(scope, needed if call.key else "")(scope, receive, send)
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
    """The key of a request; empty if it has none.

    Raises:
        BadRequestError: a header that holds one is there more than once: which one counts?
    """
    for header in (b"authorization", b"x-api-key"):
        values = [str(value.decode("latin-1").strip()) for name, value in scope["headers"] if name == header]
        if len(values) > 1:
            name = header.decode().title()
            raise BadRequestError(f"the request has {len(values)} {name} headers instead of one", field=name)
        for value in values:
            scheme, _, rest = value.partition(" ")
            if header == b"x-api-key":
                return value
            if scheme.lower() == "bearer":  # another scheme is for a proxy
                return rest.strip()
    cookies = "; ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie")
    return cookie_parser(cookies).get(COOKIE, "") if COOKIE in cookies else ""


def _is_local(scope: Scope) -> bool:
    """Whether a process of this machine has sent the request, and no proxy of this machine has passed it on."""
    if any(name in _FORWARDED for name, _ in scope["headers"]):
        return False
    return bool(scope["client"]) and is_loopback(scope["client"][0])


def ask_for_key(scope: Scope, lacking: str) -> RedirectResponse:
    """Send a browser to the login, and from there back to the page; ``lacking`` is the scope that its key has not."""
    root: str = scope.get("root_path", "")
    path: str = scope["raw_path"].decode("latin-1")
    if is_below(path, root):  # the proxy has left the prefix there
        path = path.removeprefix(root)
    query = scope["query_string"].decode("latin-1")
    asked = {"next": path + (f"?{query}" if query else ""), **({"lacking": lacking} if lacking else {})}
    return RedirectResponse(f"{root}/login?{urlencode(asked)}", 303, {"Cache-Control": "no-store"})


def _make_private(send: Send) -> Send:
    """An answer that needed a key is for its owner alone: no cache between may give it to others."""

    async def send_private(message: Message) -> None:
        if message["type"] == "http.response.start":
            rest = [(name, value) for name, value in message["headers"] if name != b"cache-control"]
            said = [value for name, value in message["headers"] if name == b"cache-control"]
            freshness = b", ".join(said).replace(b"public", b"private") or b"private, no-cache"
            message["headers"] = [*rest, (b"cache-control", freshness)]
        await send(message)

    return send_private
