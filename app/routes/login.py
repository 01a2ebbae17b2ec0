"""``/login`` and ``/logout``: a browser keeps its key in a cookie that no script can read."""

import re
from html import escape
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from app.calls import get_call
from app.keys import KeyRing, Scope
from app.scopes import COOKIE
from app.views import Visit

LOGIN_SECONDS = 90 * 24 * 3600
_OURS = re.compile(r"/(?![/\\])[^\x00-\x1f]*")  # an address of this service: // and /\ name another host

router = APIRouter(include_in_schema=False)


@router.get("/login")
async def show_login(request: Request) -> Response:
    """The form for a key; or once more the page that was asked for.

    From a page of another site, browsers send no strict cookie. So that who has logged in can follow links, the page is
    opened again, now from this site. Without a cookie the visitor comes back here, and gets the form.
    """
    visit = Visit(request)
    target = visit.query.get("next", "")
    if request.headers.get("sec-fetch-site") == "cross-site" and _OURS.fullmatch(target):
        address = escape(request.scope["root_path"] + target)
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={address}"><a href="{address}">digits</a>'
        return HTMLResponse(page, headers={"Cache-Control": "no-store"})
    lacking = visit.query.get("lacking", "")
    strings = visit.strings["login"]
    problem = strings["lacking"].format(scope=strings[lacking]) if lacking in [*Scope] else ""
    return _show(visit, problem, target)


@router.post("/login")
async def login(request: Request) -> Response:
    """Keep the key of the form in a cookie, and go on to where the visitor wanted to."""
    visit = Visit(request)
    sent = parse_qs((await request.body()).decode("utf-8", "replace"))
    key, target = (sent.get(name, [""])[-1].strip() for name in ("key", "next"))
    ring: KeyRing | None = request.app.state.key_ring
    if ring and not ring.find(key):
        ring.warn(get_call(request.scope).client, key)
        return _show(visit, visit.strings["login"]["wrong"], target, status=HTTPStatus.UNAUTHORIZED)
    response = _go_to(request, target if _OURS.fullmatch(target) else "/")
    if ring:
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, key, LOGIN_SECONDS, secure=secure, **_describe_cookie(request))
    return response


@router.post("/logout")
async def logout(request: Request) -> Response:
    """Forget the key."""
    response = _go_to(request, "/login")
    response.delete_cookie(COOKIE, **_describe_cookie(request))
    return response


def _show(visit: Visit, problem: str, target: str, status: int = HTTPStatus.OK) -> Response:
    return visit.render("login", {}, status=status, problem=problem, target=target)


def _go_to(request: Request, path: str) -> RedirectResponse:
    return RedirectResponse(request.scope["root_path"] + path, HTTPStatus.SEE_OTHER, {"Cache-Control": "no-store"})


def _describe_cookie(request: Request) -> dict[str, Any]:
    return {"path": f"{request.scope['root_path']}/", "httponly": True, "samesite": "strict"}
