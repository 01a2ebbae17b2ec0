"""``digits serve`` whose paths that begin with ``/fail`` raise an unexpected error, with the path in its text.

python -m tests.app.failing serve
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from app import cli, main


class Fail:
    """The innermost layer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/fail"):
            raise ValueError(f"cannot answer {scope['path']}")
        await self._app(scope, receive, send)


if __name__ == "__main__":
    main.LAYERS = {**main.LAYERS, "fail": lambda app, _: Fail(app)}
    cli.main()
