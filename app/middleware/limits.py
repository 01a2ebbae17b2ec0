"""The layer that limits what a client may draw: so many requests a second, so many images a minute."""

from starlette.types import ASGIApp, Receive, Scope, Send

from app.calls import Call, get_call
from app.errors import TooManyError, UnprocessableError
from app.limiter import IMAGES, REQUESTS, Limiter, Spent
from app.scopes import COUNTED

_UNITS = {REQUESTS: "requests a second", IMAGES: "images a minute"}


class Limits:
    """Counts requests before their routes, and images when a route says how many it will draw.

    Each answer to a counted request, errors included, says what is left, in ``RateLimit`` and ``RateLimit-Policy``
    (draft-ietf-httpapi-ratelimit-headers): the layer of the headers adds what this one puts into the call.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (call := get_call(scope)).route in COUNTED:
            turn = _Turn(scope["app"].state.limiter, call)
            call.take_images = turn.take_images
            await turn.take(REQUESTS, 1)
        await self._app(scope, receive, send)


class _Turn:
    """One request, and what it takes of the limits of its client."""

    def __init__(self, limiter: Limiter, call: Call) -> None:
        self._limiter = limiter
        self._call = call
        self._spent: dict[str, Spent] = {}  # by limit: a route may take images several times

    async def take_images(self, count: int, field: str) -> None:
        """Take images; see :meth:`app.calls.Call.take_images`."""
        most = self._limiter.find_most(IMAGES)
        if most and count > most:
            detail = f"{count} images are more than a client gets in a minute: ask for at most {most}"
            raise UnprocessableError(detail, field=field, bound={"images": most})
        await self.take(IMAGES, count)

    async def take(self, limit: str, amount: int) -> None:
        spent = await self._limiter.spend(self._call.owner, limit, amount)
        if spent is None:
            return
        self._spent[limit] = spent
        self._call.rest = self._describe()
        if not spent.is_allowed:
            detail = f"more than {spent.most} {_UNITS[limit]}: try again in {spent.reset_seconds} s"
            raise TooManyError(detail, headers={"Retry-After": str(spent.reset_seconds)})

    def _describe(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that say what is left."""
        policies = [f'"{one.limit}";q={one.most};w={one.window_seconds}' for one in self._spent.values()]
        rests = [f'"{one.limit}";r={one.left};t={one.reset_seconds}' for one in self._spent.values()]
        found = (b"ratelimit-policy", policies), (b"ratelimit", rests)
        return tuple((name, ", ".join(each).encode()) for name, each in found)
