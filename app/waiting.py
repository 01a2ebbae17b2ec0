"""Waits for a drawn answer, for as long as its client does and its deadline allows."""

import asyncio

from fastapi import Request

PATIENCE_SECONDS = 0.1  # for an answer, until it is watched whether the client is still there


class TooLateError(Exception):
    """The answer would come after its deadline. Try again later, or ask for fewer digits."""


class ClientGoneError(Exception):
    """The client has closed its connection, so that nobody reads the answer to this."""


async def wait_for(answer: asyncio.Future[bytes], request: Request, seconds: float) -> bytes:
    """The answer, if it comes before its deadline and before the client goes; else it is not drawn any more.

    Raises:
        TooLateError: it did not come within ``seconds``.
        ClientGoneError: the client has gone.
    """
    loop = asyncio.get_running_loop()
    watch: list[asyncio.Task[None]] = []
    # Most answers come sooner than that, and are spared the price of a task.
    timer = loop.call_later(PATIENCE_SECONDS, lambda: watch.append(loop.create_task(_watch(answer, request, seconds))))
    try:
        return await answer
    finally:
        timer.cancel()
        for task in watch:
            task.cancel()


async def _watch(answer: asyncio.Future[bytes], request: Request, seconds: float) -> None:
    """End the wait with an error when the client goes, or when the deadline has come."""
    error: Exception
    try:
        async with asyncio.timeout(seconds - PATIENCE_SECONDS):
            while (await request.receive())["type"] != "http.disconnect":
                pass
        error = ClientGoneError()
    except TimeoutError:
        error = TooLateError(f"no answer within {seconds:g} s; try again later, or with fewer digits")
    except Exception as refused:  # a layer's word on what came with the request
        error = refused
    if not answer.done():
        answer.set_exception(error)
