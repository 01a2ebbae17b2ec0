"""The events of jobs as streams: one reader for all followers of this process.

    Redis ──► Feeds.run: the next events of all followed jobs ──► a Feed per job ──► each follower, from its place

A feed keeps the events of its job once, as the bytes that are sent. A follower is a place in it, so one
that reads slowly costs no more than the buffer of its connection. A feed exists while somebody follows.
"""

import asyncio
import logging
import resource
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from redis.exceptions import RedisError

from app.errors import UnavailableError
from worker.jobs import ENDED, MAX_EVENTS, MAX_SAMPLES, SAMPLE, Event, News

logger = logging.getLogger(__name__)

MAX_FOLLOWERS = 1_000  # of this process
MAX_FEEDS = 64
RETRY_SECONDS = 10  # when there are too many
BATCH_EVENTS = 64  # that one call to Redis brings, of all jobs together
BATCH_BYTES = 32 * 1024  # about what a follower is sent at a time
LOOK_SECONDS = 0.2  # between two calls to Redis
AWAY_SECONDS = 1.0  # the same while Redis does not answer
PING_SECONDS = 15.0  # without an event: then a comment shows that the connection is alive
TURN_SECONDS = 0.001  # between two batches: without a pause, drawing waits for Python's lock
WAKE_AT_ONCE = 50  # followers, before others get their turn

PING = b": ping\n\n"

Read = Callable[[Mapping[str, str], int], Awaitable[Mapping[str, News | None]]]
Id = tuple[int, int]  # milliseconds, number


class Feed:
    """The events of one job: those that Redis keeps, as bytes."""

    def __init__(self) -> None:
        self.followers = 0
        self.is_known = True  # there is such a job
        self.is_over = False  # no more events will come
        self.is_complete = asyncio.Event()  # all events until now are here
        self.last = "0"  # the newest id
        self._ids: list[Id] = []
        self._events: list[bytes] = []
        self._dropped = 0  # from the beginning of the lists
        self._pictures: deque[int] = deque()  # the places of the events with a picture
        self._waiting: dict[asyncio.Future[None], None] = {}

    def add(self, events: list[Event]) -> None:
        """Take the next events. Only the newest ``MAX_EVENTS`` and ``MAX_SAMPLES`` are kept, as in Redis."""
        for event in events:
            self._ids.append(_parse_id(event.id))
            self._events.append(f"id: {event.id}\nevent: {event.kind}\ndata: {event.data}\n\n".encode())
            self.last, self.is_over = event.id, event.kind == ENDED
            if event.kind == SAMPLE:
                self._pictures.append(self._dropped + len(self._events) - 1)
                self._drop_pictures()
        if (excess := len(self._events) - MAX_EVENTS) > 0:
            del self._ids[:excess], self._events[:excess]
            self._dropped += excess

    def _drop_pictures(self) -> None:
        """Empty the events of the oldest pictures; their places remain."""
        while len(self._pictures) > MAX_SAMPLES:
            place = self._pictures.popleft() - self._dropped
            if place >= 0:
                self._events[place] = b""

    def find(self, after: str) -> int:
        """The place of the first event after this id."""
        return self._dropped + bisect_right(self._ids, _parse_id(after))

    def take(self, place: int) -> tuple[bytes, int]:
        """The next events from a place, about ``BATCH_BYTES``, and the place behind them. No bytes: none yet.

        Raises:
            LookupError: the events of this place are no longer kept.
        """
        start = end = place - self._dropped
        if start < 0:
            raise LookupError
        size = 0
        while end < len(self._events) and size < BATCH_BYTES:
            size += len(self._events[end])
            end += 1
        return b"".join(self._events[start:end]), end + self._dropped

    async def wait(self) -> bool:
        """Wait for news. False if there is none for ``PING_SECONDS``."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[news] = None
        try:
            async with asyncio.timeout(PING_SECONDS):
                await news
            return True
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(news, None)

    async def wake(self) -> None:
        """End all waits, a few at a time: others are answered in between."""
        for number, news in enumerate(list(self._waiting)):
            if not news.done():
                news.set_result(None)
            if number % WAKE_AT_ONCE == WAKE_AT_ONCE - 1:
                await asyncio.sleep(0)


class Feeds:
    """The feeds of this process. ``read`` gets the next events from Redis."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._feeds: dict[str, Feed] = {}
        self._followers = 0
        self._wanted = asyncio.Event()  # somebody waits for a feed to be complete
        self._turn = asyncio.Lock()
        self._is_closed = False
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Others need connections, too.
        self._max_followers = MAX_FOLLOWERS if files == resource.RLIM_INFINITY else min(MAX_FOLLOWERS, files // 2)

    async def run(self) -> None:
        """Read events for all feeds, for ever."""
        is_away = False
        while True:
            pause = AWAY_SECONDS if is_away else LOOK_SECONDS if self._feeds else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                while await self._look():
                    await asyncio.sleep(0)
                is_away = False
            except Exception as error:  # whatever it is: followers wait, and the next try may succeed
                if not is_away:
                    expected = isinstance(error, RedisError | UnavailableError)
                    logger.warning("no events of jobs for now: %s", error, exc_info=None if expected else error)
                is_away = True

    async def close(self) -> None:
        """End all streams, each as one that is complete."""
        self._is_closed = True
        for feed in list(self._feeds.values()):
            await feed.wake()

    def count(self) -> tuple[int, int]:
        """How many jobs are followed, and by how many streams."""
        return len(self._feeds), self._followers

    @contextmanager
    def follow(self, job_id: str) -> Iterator[Feed]:
        """The feed of a job, kept while the context is open.

        Raises:
            UnavailableError: there are too many followers, or jobs that are followed.
        """
        feed = self._feeds.get(job_id)
        if self._followers >= self._max_followers or (feed is None and len(self._feeds) >= MAX_FEEDS):
            raise UnavailableError(
                "too many clients follow jobs; try again later, or ask for the job",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        if feed is None:
            feed = self._feeds[job_id] = Feed()
            self._wanted.set()
        feed.followers += 1
        self._followers += 1
        try:
            yield feed
        finally:
            self._followers -= 1
            feed.followers -= 1
            if not feed.followers:
                del self._feeds[job_id]

    async def stream(self, feed: Feed, place: int) -> AsyncIterator[bytes]:
        """The events from a place until the last one; a comment now and then."""
        while not self._is_closed:
            try:
                batch, place = feed.take(place)
            except LookupError:
                return  # the client was too slow; it comes back with Last-Event-ID
            if batch:
                await self.take_turn()
                yield batch
            elif feed.is_over:
                return
            elif not await feed.wait():
                yield PING

    async def take_turn(self) -> None:
        """Wait until it is one's turn to do some work: others are answered in between."""
        async with self._turn:
            await asyncio.sleep(TURN_SECONDS)

    async def _look(self) -> bool:
        """Get the next events of every feed. True if there may be more of them at once."""
        after = {job_id: feed.last for job_id, feed in self._feeds.items() if not feed.is_over}
        if not after:
            return False
        count = max(1, BATCH_EVENTS // len(after))
        there_may_be_more = False
        for job_id, news in (await self._read(after, count)).items():
            feed = self._feeds.get(job_id)
            if feed is None or feed.last != after[job_id]:  # it went meanwhile, and came again
                continue
            events = news.events if news else []
            feed.is_known = news is not None
            feed.add(events)
            if len(events) == count and not feed.is_over:
                there_may_be_more = True
            else:
                feed.is_complete.set()
                feed.is_over = feed.is_over or news is None or news.is_ended
            if events or feed.is_over:
                await feed.wake()
        return there_may_be_more


def _parse_id(text: str) -> Id:
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number or 0)
