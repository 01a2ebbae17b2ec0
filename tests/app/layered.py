"""``digits serve`` whose answers name the layers that the request passed: ``X-Passed``, outermost first.

python -m tests.app.layered serve
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import cli, main

NAMES = [layer.__name__ for layer in main.LAYERS]


class Report:
    """The layer around all others: adds the header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passed: list[str] = []

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-passed", " ".join(passed).encode())]
            await send(message)

        await self._app({**scope, "passed": passed}, receive, send_with_header)


def mark(name: str) -> type:
    """A layer directly inside the layer ``name``: notes that a request passed that layer."""

    class Mark:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if "passed" in scope:
                scope["passed"].append(name)
            await self._app(scope, receive, send)

    return Mark


if __name__ == "__main__":  # and not in a test process that imports NAMES
    main.LAYERS = (Report, *(part for layer in main.LAYERS for part in (layer, mark(layer.__name__))))  # type: ignore[assignment]
    cli.main()
