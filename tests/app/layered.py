"""``digits serve`` whose answers name the layers that the request passed: ``X-Passed``, outermost first.

python -m tests.app.layered serve
"""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import cli, main
from app.settings import ApiSettings

NAMES = list(main.LAYERS)


class Report:
    """The layer around all others: adds the header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passed: list[str] = []

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-passed", ", ".join(passed).encode())]
            await send(message)

        await self._app({**scope, "passed": passed}, receive, send_with_header)


class Mark:
    """A layer directly inside the layer ``name``: notes that a request passed that layer."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "passed" in scope:
            scope["passed"].append(self._name)
        await self._app(scope, receive, send)


def mark(add: Callable[[ASGIApp, ApiSettings], ASGIApp], name: str) -> Callable[[ASGIApp, ApiSettings], ASGIApp]:
    return lambda app, settings: add(Mark(app, name), settings)


if __name__ == "__main__":  # and not in a test process that imports NAMES
    marked = {name: mark(add, name) for name, add in main.LAYERS.items()}
    main.LAYERS = {"report": lambda app, _: Report(app), **marked}
    cli.main()
