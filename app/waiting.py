"""Wait for a drawn answer until its deadline, or until its client disconnects."""

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

PATIENCE_SECONDS = 0.1  # for an answer, before the watch for a disconnect begins


class TooLateError(Exception):
    """The answer did not come before its deadline; try again later, or ask for fewer digits."""


async def wait_for(answer: asyncio.Future[bytes], request: Request, seconds: float) -> bytes:
    """The answer, if it comes before its deadline and before the client disconnects; else its drawing stops.

    Raises:
        TooLateError: it did not come within ``seconds``.
        ClientDisconnect: the client has disconnected.
    """
    loop = asyncio.get_running_loop()
    watch: list[asyncio.Task[None]] = []
    # Most answers come sooner than that, and so save the cost of a task.
    timer = loop.call_later(PATIENCE_SECONDS, lambda: watch.append(loop.create_task(_watch(answer, request, seconds))))
    try:
        return await answer
    finally:
        timer.cancel()
        for task in watch:
            task.cancel()


async def _watch(answer: asyncio.Future[bytes], request: Request, seconds: float) -> None:
    """End the wait with an error when the client disconnects, or when the deadline passes."""
    error: Exception
    try:
        async with asyncio.timeout(seconds - PATIENCE_SECONDS):
            while (await request.receive())["type"] != "http.disconnect":
                pass
        error = ClientDisconnect()
    except TimeoutError:
        error = TooLateError(f"no answer within {seconds:g} s; try again later, or with fewer digits")
    except Exception as refused:  # a layer refused the body of the request
        error = refused
    if not answer.done():
        answer.set_exception(error)
