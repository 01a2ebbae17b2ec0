"""The layer that limits what a client may draw: so many requests a second, so many images a minute."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.calls import Call, get_call
from app.errors import TooManyError, UnprocessableError
from app.keys import Scope as KeyScope
from app.limiter import IMAGES, REQUESTS, Limiter, Spent
from app.scopes import find_scope

_UNITS = {REQUESTS: "requests a second", IMAGES: "images a minute"}


class Limits:
    """Counts requests for pictures before their routes, and images when a route says how many it will draw.

    Each answer says what is left, in ``RateLimit`` and ``RateLimit-Policy`` (draft-ietf-httpapi-ratelimit-headers).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or find_scope(get_call(scope).route) is not KeyScope.DRAW:
            await self._app(scope, receive, send)
            return
        call = get_call(scope)
        turn = _Turn(scope["app"].state.limiter, call)
        call.take_images = turn.take_images
        await turn.take(REQUESTS, 1)

        async def send_with_rest(message: Message) -> None:
            if message["type"] == "http.response.start":
                rest = [(name.lower().encode(), value.encode()) for name, value in turn.describe().items()]
                message["headers"] = [*message["headers"], *rest]
            await send(message)

        await self._app(scope, receive, send_with_rest)


class _Turn:
    """One request, and what it takes of the limits of its client."""

    def __init__(self, limiter: Limiter, call: Call) -> None:
        self._limiter = limiter
        self._client = call.owner
        self._spent: list[Spent] = []

    async def take_images(self, count: int, field: str) -> None:
        """Take images; see :meth:`app.calls.Call.take_images`."""
        most = self._limiter.find_most(IMAGES)
        if most and count > most:
            detail = f"{count} images are more than a client gets in a minute: ask for at most {most}"
            raise UnprocessableError(detail, field=field, bound={"images": most})
        await self.take(IMAGES, count)

    async def take(self, limit: str, amount: int) -> None:
        spent = await self._limiter.spend(self._client, limit, amount)
        if spent is None:
            return
        self._spent.append(spent)
        if not spent.is_allowed:
            detail = f"more than {spent.most} {_UNITS[limit]}: try again in {spent.reset_seconds} s"
            raise TooManyError(detail, headers={"Retry-After": str(spent.reset_seconds), **self.describe()})

    def describe(self) -> dict[str, str]:
        """The headers that say what is left."""
        if not self._spent:
            return {}
        policies = [f'"{one.limit}";q={one.most};w={one.window_seconds}' for one in self._spent]
        rests = [f'"{one.limit}";r={one.left};t={one.reset_seconds}' for one in self._spent]
        return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(rests)}
