"""How much each client may ask for: counted in Redis for all processes and hosts, or else in this process.

While Redis is away, each process counts on its own. Must not know of HTTP.
"""

import functools
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from app.settings import ApiSettings
from worker.connections import connect

logger = logging.getLogger(__name__)

REQUESTS, IMAGES = "requests", "images"  # what is limited

REDIS_SECONDS = 0.5  # for an answer of Redis
AWAY_SECONDS = 5.0  # until Redis is asked again after it did not answer
MAX_THREADS = 20  # that wait for Redis at a time
PREFIX = "digits:limits"  # of the keys in Redis


@dataclass(frozen=True)
class Spent:
    """What a client has left of a limit."""

    limit: str
    most: int
    window_seconds: int
    is_allowed: bool
    left: int
    reset_seconds: int  # until more is left


class Limiter:
    """Counts what clients ask for, in sliding windows."""

    def __init__(self, limits: Mapping[str, RateLimitItem], redis_url: str | None) -> None:
        self._limits = limits
        self._here = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._client = connect(redis_url) if redis_url else None
        self._shared = None
        if self._client:
            storage = RedisStorage("redis://", connection_pool=self._client.connection_pool, key_prefix=PREFIX)
            self._shared = SlidingWindowCounterRateLimiter(storage)
        self._away_until = 0.0
        self._threads = CapacityLimiter(MAX_THREADS)

    def close(self) -> None:
        """Close the connections."""
        if self._client:
            self._client.close()

    def find_most(self, limit: str) -> int | None:
        """The most that a client may ever ask for at once; None if that has no limit."""
        return self._limits[limit].amount if limit in self._limits else None

    async def spend(self, client: str, limit: str, amount: int = 1) -> Spent | None:
        """Take ``amount`` from what the client has left of a limit; nothing if that is less.

        None: there is no such limit.
        """
        if limit not in self._limits:
            return None
        if self._shared and time.monotonic() >= self._away_until:
            spend = functools.partial(self._spend, self._shared, client, limit, amount)
            try:
                with anyio.fail_after(REDIS_SECONDS):
                    return await anyio.to_thread.run_sync(spend, limiter=self._threads, abandon_on_cancel=True)
            except (RedisError, TimeoutError) as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                logger.warning("redis does not count requests: each process counts on its own: %r", error)
        return self._spend(self._here, client, limit, amount)

    def _spend(self, windows: SlidingWindowCounterRateLimiter, client: str, limit: str, amount: int) -> Spent:
        item = self._limits[limit]
        is_allowed = windows.hit(item, limit, client, cost=amount)
        stats = windows.get_window_stats(item, limit, client)
        reset = max(1, math.ceil(stats.reset_time - time.time()))
        return Spent(limit, item.amount, item.get_expiry(), is_allowed, stats.remaining, reset)


def make_limiter(settings: ApiSettings) -> Limiter | None:
    """The limiter of these settings; None if they have no limit."""
    limits: dict[str, RateLimitItem] = {}
    if settings.limit_requests:
        limits[REQUESTS] = RateLimitItemPerSecond(settings.limit_requests)
    if settings.limit_images:
        limits[IMAGES] = RateLimitItemPerMinute(settings.limit_images)
    return Limiter(limits, settings.require_redis() if settings.redis_url else None) if limits else None
