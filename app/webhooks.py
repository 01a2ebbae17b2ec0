"""Tells receivers that jobs have ended, as Standard Webhooks says: https://www.standardwebhooks.com

Every API process looks for webhooks that are due. One that is taken belongs to this process for
``SENDING_SECONDS``; if the process dies, another one sends it, with the same ``webhook-id``. So a receiver may hear
of an end twice.
"""

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlsplit

import httpcore
from fastapi import Header
from pydantic import BaseModel
from redis.exceptions import RedisError
from standardwebhooks import Webhook as Signer

from app.addresses import ReceiverError, Receivers
from app.dependencies import JobQueue
from app.errors import UnavailableError
from worker.connections import explain
from worker.jobs import Job, Notice
from worker.webhooks import DeliveryState

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks for webhooks that are due
MAX_SENDING = 16  # at a time, of a process
TRY_SECONDS = 10.0  # for a try, from the look-up of the name to the head of the answer
HOUR = 3_600.0
# Before each try, as the standard proposes: three days in all.
DELAYS: tuple[float, ...] = (0.0, 5.0, 300.0, 1_800.0, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
JITTER = 0.1  # of a delay, at most
MAX_RETRY_AFTER = 24 * HOUR


class Told(BaseModel):
    """What a receiver is told: the body."""

    type: str  # job.succeeded, job.failed or job.canceled
    timestamp: datetime  # of the end
    data: Job  # as GET /jobs/{id} gives it


def describe_call(
    told: Told,
    webhook_id: Annotated[str, Header(description="the id of the job")],
    webhook_timestamp: Annotated[int, Header(description="of this try, in seconds since 1970")],
    webhook_signature: Annotated[str, Header(description="v1, and the HMAC-SHA256 of id.timestamp.body in base64")],
) -> None:
    """A job with a webhook has ended. The receiver answers within 10 s. The same ``webhook-id`` may come twice."""


class FailedError(Exception):
    """A try has failed; the message says why."""

    def __init__(self, why: str, retry_after: float = 0.0, *, is_final: bool = False) -> None:
        super().__init__(why)
        self.retry_after = retry_after  # seconds that the receiver asks for
        self.is_final = is_final  # it wants no more


class Courier:
    """Sends the webhooks that are due, from one process."""

    def __init__(self, queue: JobQueue, receivers: Receivers) -> None:
        self._queue = queue
        self._receivers = receivers
        self._sending: set[asyncio.Task[None]] = set()
        self._is_away = False

    async def run(self) -> None:
        """Look and send, for ever."""
        tls = await asyncio.to_thread(ssl.create_default_context)  # reads a file of 200 kB
        async with asyncio.TaskGroup() as group:
            while True:
                for notice in await self._take():
                    task = group.create_task(self._deliver(notice, tls))
                    self._sending.add(task)
                    task.add_done_callback(self._sending.discard)
                await asyncio.sleep(LOOK_SECONDS)

    async def _take(self) -> list[Notice]:
        if len(self._sending) == MAX_SENDING:
            return []
        try:
            taken = await self._queue.ask(self._queue.jobs.take_webhooks, MAX_SENDING - len(self._sending))
            self._is_away = False
            return taken
        except (RedisError, UnavailableError) as error:
            if not self._is_away:
                logger.warning("cannot look for webhooks: %s", explain(error))
            self._is_away = True
        except Exception:  # whatever it is, the next look may work
            logger.exception("cannot look for webhooks")
        return []

    async def _deliver(self, notice: Notice, tls: ssl.SSLContext) -> None:
        """One try, and what follows from it. Whatever goes wrong here, all other webhooks are sent."""
        try:
            await self._try_and_settle(notice, tls)
        except Exception:  # it is sent again
            logger.exception("cannot deliver the webhook of job %s", notice.job.id)

    async def _try_and_settle(self, notice: Notice, tls: ssl.SSLContext) -> None:
        job, tries = notice.job, notice.webhook.tries
        state, why, delay = DeliveryState.DELIVERED, None, 0.0
        try:
            if tries > len(DELAYS):
                raise FailedError("the process that made the last try has died")
            await self._try(notice, tls)
        except FailedError as error:
            why = str(error)
            if error.is_final or tries >= len(DELAYS):
                state = DeliveryState.GAVE_UP
                logger.warning("the webhook of job %s is given up after %d tries: %s", job.id, tries, why)
            else:
                state, delay = DeliveryState.WAITING, max(DELAYS[tries], error.retry_after)
                delay *= random.uniform(1, 1 + JITTER)
                logger.info("the webhook of job %s was not taken: %s; again in %.0f s", job.id, why, delay)
        try:
            await self._queue.ask(self._queue.jobs.settle_webhook, notice, state, why, delay)
        except Exception as error:  # whatever it is, the webhook will be sent again
            logger.warning("cannot record how the webhook of job %s went: %s", job.id, error)

    async def _try(self, notice: Notice, tls: ssl.SSLContext) -> None:
        """Send it once.

        Raises:
            FailedError: it did not arrive, or the receiver did not take it.
        """
        try:
            if problem := self._receivers.find_problem(notice.webhook.url):
                raise ReceiverError(problem)
            async with asyncio.timeout(TRY_SECONDS):
                status, headers = await self._post(notice, tls)
            _check(status, headers)
        except FailedError:
            raise
        except (TimeoutError, httpcore.TimeoutException):
            raise FailedError(f"no answer within {TRY_SECONDS:.0f} s") from None
        except ReceiverError as error:
            raise FailedError(str(error)) from None
        except httpcore.ConnectError as error:
            raise FailedError(f"no connection: {str(error)[:200] or 'refused'}") from None
        except (httpcore.NetworkError, httpcore.ProtocolError):
            raise FailedError("the connection broke, or the answer is not HTTP") from None
        except Exception:
            logger.exception("cannot send the webhook of job %s", notice.job.id)
            raise FailedError("a fault of the service; its log has the reason") from None

    async def _post(self, notice: Notice, tls: ssl.SSLContext) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case) of the answer. Its body is not read, and no redirect followed."""
        job, parts = notice.job, urlsplit(notice.webhook.url)
        _, _, host, *path = notice.webhook.url.split("/", 3)
        url = httpcore.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target="/" + "".join(path))
        told = Told(type=f"job.{job.state}", timestamp=job.ended_at or datetime.now(UTC), data=job)
        body = told.model_dump_json()
        headers: dict[str, str] = {
            "Host": host,
            "Content-Type": "application/json",
            "User-Agent": "digits",
            **sign(notice.secret.get_secret_value(), job.id, int(time.time()), body),
        }
        async with (
            httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=self._receivers) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body.encode()) as answer,
        ):
            return answer.status, {name.decode().lower(): value.decode("latin-1") for name, value in answer.headers}


def sign(secret: str, message_id: str, at: int, body: str) -> dict[str, str]:
    """The headers that let a receiver check who sends. ``at``: seconds since 1970."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": Signer(secret).sign(message_id, datetime.fromtimestamp(at, UTC), body),
    }


def _check(status: int, headers: Mapping[str, str]) -> None:
    if 200 <= status < 300:
        return
    why = f"the receiver answered {status}"
    if 300 <= status < 400:
        why += ", and redirects are not followed"
    raise FailedError(why, _read_retry_after(headers), is_final=status == HTTPStatus.GONE)


def _read_retry_after(headers: Mapping[str, str]) -> float:
    """The seconds of ``Retry-After``, a number or a date, within bounds; 0 if there is none that can be read."""
    text, seconds = headers.get("retry-after", "").strip(), 0.0
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
