"""Errors as answers: every error becomes ``application/problem+json`` here and nowhere else.

For a browser that opens a view, the layer of errors makes a page of it.

Routes and layers raise these:

    ServiceError
    ├── BadRequestError       400
    ├── UnauthorizedError     401
    ├── ForbiddenError        403
    ├── NotFoundError         404
    ├── NotAcceptableError    406
    ├── ConflictError         409
    ├── TooLargeError         413
    ├── UnsupportedMediaError 415
    ├── MisdirectedError      421
    ├── UnprocessableError    422
    ├── TooManyError          429
    └── UnavailableError      503

``models``, ``worker`` and the engine raise their own errors, which know nothing of HTTP.
:data:`_TRANSLATIONS` maps each of them to an answer: to one of the above, to a 429 or to a 504. A
problem has the members of RFC 9457, and ``errors``: one ``{field, detail, bound}`` for each mistake in
the input.
"""

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.datasets import RETRY_SECONDS, TooManySetsError
from app.engine import EngineBusyError
from app.entries import NotNowError, UnknownVersionError
from app.rendering import ImpossiblePictureError
from app.studio import RETRY_SECONDS as STUDIO_SECONDS
from app.studio import StudioBusyError
from app.upkeep import NeededError, UnwritableError
from app.waiting import TooLateError
from models.mnist import DatasetError
from worker.connections import SILENT, explain
from worker.jobs import KeyReusedError, NotOwnedError, TooManyOwnedError, TooManyQueuedError

logger = logging.getLogger(__name__)

FieldError = dict[str, Any]

QUEUED_SECONDS = 60  # until a try is worth it when too many jobs are queued

CLIENT_GONE = 499  # as nginx counts it: neither the service nor the request was wrong

REDIS_AWAY = f"training needs redis: {SILENT}"


class ServiceError(HTTPException):
    """The service cannot give the answer that was asked for; ``detail`` says why and what to do."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(
        self, detail: str, *, field: str | None = None, bound: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(self.status, detail, headers)
        self.errors = [_name_field(field, detail, bound)] if field else []


class BadRequestError(ServiceError):
    """The request is not one of HTTP; this is a fault of the client's software."""

    status = HTTPStatus.BAD_REQUEST


class UnauthorizedError(ServiceError):
    """The request has no good key; send one that the operator of the service has given out."""

    status = HTTPStatus.UNAUTHORIZED


class ForbiddenError(ServiceError):
    """This client may not do this; the answer says what is missing."""

    status = HTTPStatus.FORBIDDEN


class NotFoundError(ServiceError):
    """There is no such version, job or path; choose one that the answer, ``/models`` or ``/jobs`` lists."""

    status = HTTPStatus.NOT_FOUND


class NotAcceptableError(ServiceError):
    """None of the formats in ``Accept`` can be made; ask for one that the answer names."""

    status = HTTPStatus.NOT_ACCEPTABLE


class ConflictError(ServiceError):
    """The state of a resource does not allow the call, for example of an ended job; look at the state first."""

    status = HTTPStatus.CONFLICT


class TooLargeError(ServiceError):
    """The body is larger than the limit; send less."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaError(ServiceError):
    """The body has a media type that the call does not accept; send the one that the answer names."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class MisdirectedError(ServiceError):
    """The request names a host that this service is not; ask under one of its own names."""

    status = HTTPStatus.MISDIRECTED_REQUEST


class UnprocessableError(ServiceError):
    """The input is wrong; correct the field that the answer names, within its bound."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class TooManyError(ServiceError):
    """The client asks for more than it may in this time; try again after ``Retry-After``."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class UnavailableError(ServiceError):
    """A part that the call needs is not available; start it, or try again later."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class Problem(JSONResponse):
    """The response for one problem (RFC 9457)."""

    media_type = "application/problem+json"

    def __init__(
        self, status: int, detail: str, errors: list[FieldError] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": int(status),
            "detail": detail,
        }
        if errors:
            body["errors"] = errors
        super().__init__(body, status, headers)
        self.detail = detail
        self.errors = errors or []


def answer(error: Exception, call: str) -> Response:
    """The response for any error of ``call``, as ``GET /models``. An unexpected error is logged and becomes a 500."""
    for kind, translate in _TRANSLATIONS.items():
        if isinstance(error, kind):
            return translate(error)
    logger.error("unexpected error of %s", call, exc_info=error)
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the log of the service has the reason")


def _translate_http(error: HTTPException) -> Problem:
    return Problem(error.status_code, error.detail, getattr(error, "errors", None), error.headers)


def _translate_validation(error: RequestValidationError) -> Problem:
    errors = [_translate_item(item) for item in error.errors()]
    detail = "; ".join(f"{item['field']}: {item['detail']}" for item in errors)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors)


def _translate_unknown_version(error: UnknownVersionError) -> Problem:
    bound = {"usable": error.usable} if error.usable else None
    return _translate_http(NotFoundError(str(error), field=error.field, bound=bound))


def _translate_busy(error: EngineBusyError) -> Problem:
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, str(error), headers={"Retry-After": str(error.retry_seconds)})


def _translate_redis(error: Exception) -> Problem:
    logger.warning("redis: %s", error)
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"training needs redis: {explain(error)}")


def _answer_nobody(error: Exception) -> Response:
    """The client has gone: no log line, and nobody reads the answer."""
    return Response(status_code=CLIENT_GONE)


# The first row whose class matches the error decides the answer.
_TRANSLATIONS: Mapping[type[Exception], Callable[[Any], Response]] = {
    HTTPException: _translate_http,
    RequestValidationError: _translate_validation,
    UnknownVersionError: _translate_unknown_version,
    ImpossiblePictureError: lambda error: _translate_http(
        UnprocessableError(str(error), field="scale", bound={"le": error.bound})
    ),
    EngineBusyError: _translate_busy,
    TooManySetsError: lambda error: Problem(
        HTTPStatus.TOO_MANY_REQUESTS, str(error), headers={"Retry-After": str(RETRY_SECONDS)}
    ),
    StudioBusyError: lambda error: Problem(
        HTTPStatus.TOO_MANY_REQUESTS, str(error), headers={"Retry-After": str(STUDIO_SECONDS)}
    ),
    DatasetError: lambda error: Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"the real digits cannot be read: {error}"),
    NeededError: lambda error: Problem(HTTPStatus.CONFLICT, str(error)),
    UnwritableError: lambda error: Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)),
    NotNowError: lambda error: Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)),
    TooLateError: lambda error: Problem(HTTPStatus.GATEWAY_TIMEOUT, str(error)),
    ClientDisconnect: _answer_nobody,
    KeyReusedError: lambda error: _translate_http(
        UnprocessableError("this key was used before with another body; use a new key", field="Idempotency-Key")
    ),
    NotOwnedError: lambda _: _translate_http(
        ForbiddenError(
            "this key has not queued the job: only the key that has, or one with the scope admin, may cancel it",
            field="job_id",
        )
    ),
    TooManyQueuedError: lambda _: Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too many jobs are queued; cancel some, or try again later",
        headers={"Retry-After": str(QUEUED_SECONDS)},
    ),
    TooManyOwnedError: lambda error: Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"{error.most} of your jobs are queued or running, and you may have no more: cancel one, or try again later",
        headers={
            "Retry-After": str(QUEUED_SECONDS),
            "RateLimit-Policy": f'"jobs";q={error.most}',
            "RateLimit": '"jobs";r=0',
        },
    ),
    RedisError: _translate_redis,
    OperationalError: _translate_redis,
}


_WORDS = {"extra_forbidden": "unknown parameter"}  # the type of an error of pydantic → words for it


def _translate_item(item: Mapping[str, Any]) -> FieldError:
    """Translate one of pydantic's errors: ``loc`` is (where, field, …), ``ctx`` holds the bound."""
    where, *path = item["loc"]
    named = isinstance(path[0], str) if path else False
    field = ".".join(str(part) for part in path) if named else str(where)
    bound = {name: value for name, value in item.get("ctx", {}).items() if isinstance(value, int | float | str)}
    return _name_field(field, _WORDS.get(item["type"], item["msg"]), bound)


def _name_field(field: str, detail: str, bound: Any) -> FieldError:
    return {"field": field, "detail": detail} | ({"bound": bound} if bound else {})
