"""The layer that answers every error of the inner layers and routes with a problem; to visitors, with a page."""

import logging

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import errors, views
from app.calls import get_call
from app.errors import Problem

NO_ROUTE = ""  # somebody may have mistyped the address of a view

logger = logging.getLogger(__name__)


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
            response = errors.answer(error, f"{scope['method']} {scope['path']}")
            if isinstance(response, Problem) and get_call(scope).route in {*views.ROUTES, NO_ROUTE}:
                response = _make_page(response, scope)
            await response(scope, receive, send)


def _make_page(problem: Problem, scope: Scope) -> Response:
    """The page in place of a problem, if a browser opens a view."""
    problem.headers["Vary"] = "Accept, Accept-Language, Cookie"
    if not views.is_visit(scope):
        return problem
    try:
        retry_after = problem.headers.get("retry-after", "")
        named = "; ".join(f"{one['field']}: {one['detail']}" for one in problem.errors)
        page = views.render_problem(Request(scope), problem.status_code, named or problem.detail, retry_after)
    except Exception:
        logger.exception("no page can say the problem of %s", scope["path"])
        return problem
    own = {name: value for name, value in problem.headers.items() if not name.startswith("content-")}
    page.headers.update(own | {"cache-control": "no-store"})
    return page
