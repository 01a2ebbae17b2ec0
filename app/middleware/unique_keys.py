"""The layer that refuses a query with a repeated key: which of its values was meant?"""

from functools import lru_cache
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import UnprocessableError


class UniqueKeys:
    """Refuses repeated keys on every route: no call here takes a list that way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (key := _find_repeated(scope["query_string"])):
            raise UnprocessableError("this key is there more than once", field=key)
        await self._app(scope, receive, send)


@lru_cache  # many requests have the same query
def _find_repeated(query: bytes) -> str | None:
    seen: set[str] = set()
    for key, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if key in seen:
            return key
        seen.add(key)
    return None
