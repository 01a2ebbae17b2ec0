"""HTTP/1.1 as uvicorn and httptools speak it, with bounds on what a client may send, and for how long.

Without them, a header of 70 MB blocks all answers of the process for seconds, and a few hundred
half-sent requests take all its file descriptors.
"""

import asyncio
import logging
import resource
import time
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.access import REFUSAL, log_answer
from app.calls import DATA_POLICY, REQUEST_ID, make_request_id
from app.errors import Problem
from app.middleware.calls import CONTENT_POLICY, FIXED
from app.telemetry import Telemetry

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 64 * 1024  # of the request line and the headers; also of trailers and of what frames the chunks
IDLE_SECONDS = 60  # for the next request of a connection
LINGER_SECONDS = 2.0  # that a refused client is still listened to, so that it reads its answer before the end
MAX_FILES = 65_536  # to open at most, if the system allows
SPARE_FILES = 80  # not for clients: log, versions, connections to Redis
RETRY_SECONDS = 5  # when all places are taken
LOG_SECONDS = 10.0  # between two lines about connections that were closed


class Places:
    """The connections of this process, and which of them wait for a whole request: those may be closed for others."""

    def __init__(self, count: int, telemetry: Telemetry) -> None:
        self._count = count
        self.telemetry = telemetry
        self._waiting: dict[BoundedProtocol, None] = {}  # in the order in which they began to wait
        self._refused: dict[BoundedProtocol, None] = {}  # they have their answer, and are about to be closed
        self._closed = 0
        self._next_line = 0.0

    def make_room(self, taken: int) -> bool:
        """Close the connection that has waited longest if all places are taken. False if nobody waits."""
        if taken <= self._count:
            return True
        longest = next((one for one in (*self._refused, *self._waiting) if not one.is_sending()), None)
        self._note()
        if longest is None:
            return False
        self.stop_waiting(longest)
        longest.transport.abort()
        return True

    def wait(self, connection: "BoundedProtocol") -> None:
        """The connection waits for its next request from now on."""
        self._waiting[connection] = None

    def refuse(self, connection: "BoundedProtocol") -> None:
        """The connection is refused: it is the first to give way."""
        self._refused[connection] = None

    def stop_waiting(self, connection: "BoundedProtocol") -> None:
        """The connection has a whole request, or is closed."""
        self._waiting.pop(connection, None)
        self._refused.pop(connection, None)

    def _note(self) -> None:
        self._closed += 1
        self.telemetry.crowded_out.inc()
        if (now := time.monotonic()) >= self._next_line:
            text = "all %d places for connections are taken, %d were closed for others; raise the limit of open files"
            logger.warning(text, self._count, self._closed)
            self._closed, self._next_line = 0, now + LOG_SECONDS


def count_places() -> int:
    """Raise the limit of open files as far as allowed; return how many of them are for connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    allowed = MAX_FILES if soft == resource.RLIM_INFINITY else min(soft, MAX_FILES)
    return max(allowed - SPARE_FILES, allowed // 2)


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    A request's head over ``MAX_HEAD_BYTES`` is refused with a 431, or a 414 if most of it is the request
    line, at the latest one read of the socket after the bound. A request that is not there as a whole
    ``header_seconds`` after its first byte gets a 408. All refusals are problems (RFC 9457), which go into the access
    log if it ``logs_refusals``.
    """

    def __init__(
        self, *arguments: Any, header_seconds: float, places: Places, logs_refusals: bool, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.url = b""  # until a message begins
        self._header_seconds = header_seconds
        self._places = places
        self._logs_refusals = logs_refusals
        self._read = 0  # bytes of this read of the socket that no message has counted yet
        self._extra = 0  # bytes of this message that are not its body
        self._is_in_message = self._has_head = self._is_refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._previous: RequestResponseCycle | None = None  # of the request before this one

    def is_sending(self) -> bool:
        """Whether a part of an answer is still to be sent."""
        return self.transport.get_write_buffer_size() > 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._places.telemetry.connections.inc()
        if self._places.make_room(len(self.connections)):
            self._places.wait(self)
            self._watch_idleness()
        else:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "all connections are busy; try again later")
            self.transport.close()  # there is no room to linger

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.telemetry.connections.dec()
        self._places.stop_waiting(self)
        self._stop_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        self._read = len(data)
        self._extra += self._read
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # there is nothing to upgrade to: this is the last request
            self._is_refused, self.cycle.keep_alive = True, False
            return
        except httptools.HttpParserError as error:
            if not self._is_refused:
                reason = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}"
                self._refuse(HTTPStatus.BAD_REQUEST, f"the request is not valid HTTP/1.1{reason}")
            return
        if not self._is_in_message and not self._extra:
            return
        if self._extra > MAX_HEAD_BYTES:
            self._refuse_size()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._header_seconds, self._end_half_sent)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_message, self._has_head = True, False
        self._extra, self._read = self._read, 0

    def on_headers_complete(self) -> None:
        # The count may include an earlier message of the same read.
        if self._extra > MAX_HEAD_BYTES and self._count_head() > MAX_HEAD_BYTES:
            self._refuse_size()
            raise ValueError  # which stops the parser
        self._previous = self.cycle
        super().on_headers_complete()
        self._has_head, self._extra = True, 0
        self.headers = []  # for trailers, which are no headers of the request

    def on_body(self, body: bytes) -> None:
        self._read -= len(body)
        self._extra -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_message = self._has_head = False
        self._extra = 0
        self._stop_timer()
        if not self.cycle.response_complete:
            self._places.stop_waiting(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.cycle.response_complete:
            return  # another request of this connection waits for its answer
        self._places.wait(self)
        if self._is_refused:
            self._end()

    def _count_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def _refuse_size(self) -> None:
        if not self._has_head and 2 * len(self.url) > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, "the request line is too long", "url")
        else:
            self._refuse(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers, trailers or chunk lines are too long", "headers"
            )

    def _end_half_sent(self) -> None:
        if not (self._has_head and self.cycle.response_started):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the request was not complete within {self._header_seconds:g} s")
        elif self.cycle.response_complete:  # it was answered without its body
            self.transport.close()
        else:
            self._is_refused = True

    def _refuse(self, status: HTTPStatus, detail: str, too_long: str | None = None) -> None:
        """Answer with a problem and end the connection. If other answers come first, only end it after them."""
        self._is_refused = True
        self._places.stop_waiting(self)
        self._stop_timer()
        if self._has_head and self.pipeline:
            self.pipeline.popleft()  # this request, which waits for its turn
            assert self._previous is not None
            self.cycle = self._previous
            return
        is_at_work = self.cycle is not None and not self.cycle.response_complete
        if is_at_work and (not self._has_head or self.cycle.response_started):
            return
        errors = [{"field": too_long, "detail": detail, "bound": {"le": MAX_HEAD_BYTES}}] if too_long else None
        retry = {"Retry-After": str(RETRY_SECONDS)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        self._places.telemetry.refusals[status].inc()
        problem = Problem(status, detail, errors, {"Connection": "close", **retry})
        ours = ((CONTENT_POLICY, DATA_POLICY), (REQUEST_ID.lower().encode(), make_request_id().encode()))
        headers = (*self.server_state.default_headers, *problem.raw_headers, *FIXED, *ours)
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + bytes(problem.body))
        if is_at_work:
            cast("dict[str, Any]", self.cycle.scope)[REFUSAL] = status, len(problem.body)
            self.cycle.disconnected = True  # whoever works on this request stops
            self.cycle.message_event.set()
        elif self._logs_refusals:
            self._log_refusal(status, len(problem.body))
        self._end()

    def _log_refusal(self, status: HTTPStatus, size: int) -> None:
        """For the access log, as far as the request is known."""
        url = self.url if self._is_in_message else b""
        method = self.parser.get_method().decode() if url else "-"
        scope = {"client": self.client, "headers": self.scope["headers"] if self._is_in_message else []}
        log_answer(scope, method, url or b"-", status, size, seconds=None, is_complete=True)

    def _end(self) -> None:
        """Close for sending, and soon as a whole; what is still to be sent is sent first."""
        if self.transport.is_closing():
            return
        self._places.stop_waiting(self)
        self._places.refuse(self)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _watch_idleness(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
