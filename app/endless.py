"""Work that has no end: if it ends all the same, the log says so, and it begins again."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0  # until it begins again


def start(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """Begin work that has no end. Canceling the task ends it; nothing else does."""
    return asyncio.create_task(_repeat(name, work), name=name)


async def _repeat(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    task = asyncio.current_task()
    while True:
        error: BaseException | None = None
        try:
            await work()
        except asyncio.CancelledError as canceled:
            if task and task.cancelling():
                raise
            error = canceled  # of something that it has waited for
        except Exception as raised:
            error = raised
        logger.error("%s has ended, and begins again in %.0f s", name, PAUSE_SECONDS, exc_info=error)
        await asyncio.sleep(PAUSE_SECONDS)
