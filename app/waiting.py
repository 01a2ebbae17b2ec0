"""Wait for a drawn answer until its deadline, or until its client disconnects."""

import asyncio
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")

PATIENCE_SECONDS = 0.1  # for an answer, before the watch for a disconnect begins


class TooLateError(Exception):
    """The answer did not come before its deadline; try again later, or ask for fewer digits."""


@dataclass(frozen=True)
class Deadline:
    """When a request must be answered."""

    seconds: float  # from its arrival
    ends: float  # on the clock of the event loop

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(seconds, asyncio.get_running_loop().time() + seconds)

    def require_time(self) -> None:
        """Go on only before it.

        Raises:
            TooLateError: it has passed.
        """
        if asyncio.get_running_loop().time() > self.ends:
            raise self.make_error()

    def make_error(self) -> TooLateError:
        return TooLateError(f"no answer within {self.seconds:g} s; try again later, or with fewer digits")


async def wait_for(answer: asyncio.Future[T], request: Request, deadline: Deadline) -> T:
    """The answer, if it comes before its deadline and before the client disconnects; else its drawing stops.

    Raises:
        TooLateError: it did not come before ``deadline``.
        ClientDisconnect: the client has disconnected.
    """
    loop = asyncio.get_running_loop()
    watch: list[asyncio.Task[None]] = []
    # Most answers come sooner than that, and so save the cost of a task.
    timer = loop.call_later(PATIENCE_SECONDS, lambda: watch.append(loop.create_task(_watch(answer, request, deadline))))
    try:
        return await answer
    finally:
        timer.cancel()
        for task in watch:
            task.cancel()


async def _watch(answer: asyncio.Future[Any], request: Request, deadline: Deadline) -> None:
    """End the wait with an error when the client disconnects, or when the deadline passes."""
    error: Exception
    try:
        async with asyncio.timeout_at(deadline.ends):
            while (await request.receive())["type"] != "http.disconnect":
                pass
        error = ClientDisconnect()
    except TimeoutError:
        error = deadline.make_error()
    except Exception as refused:  # a layer refused the body of the request
        error = refused
    if not answer.done():
        answer.set_exception(error)
