"""What goes wrong, as an answer: every error becomes ``application/problem+json`` here and nowhere else.

Routes and layers raise these:

    ServiceError
    ├── NotFoundError         404
    ├── NotAcceptableError    406
    ├── ConflictError         409
    ├── TooLargeError         413
    ├── UnsupportedMediaError 415
    ├── UnprocessableError    422
    └── UnavailableError      503

``models``, ``worker`` and the engine raise errors of their own, which know nothing of HTTP;
:data:`_TRANSLATIONS` says what answer each of them is. The problem's members are those of RFC 9457,
and ``errors``: one ``{field, detail, bound}`` for each thing that is wrong with the input.
"""

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from app.engine import EngineBusyError
from app.generators import UnknownVersionError
from app.rendering import ImpossiblePictureError
from app.waiting import TooLateError
from worker.jobs import KeyReusedError

logger = logging.getLogger(__name__)

FieldError = dict[str, Any]

REDIS_AWAY = "redis, which holds the jobs, does not answer; try again later"


class ServiceError(HTTPException):
    """An answer other than the one that was asked for."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(
        self, detail: str, *, field: str | None = None, bound: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(self.status, detail, dict(headers or {}))
        self.errors = [_name_field(field, detail, bound)] if field else []


class NotFoundError(ServiceError):
    """There is no such version, job or path. Look at the list that the answer or its collection gives."""

    status = HTTPStatus.NOT_FOUND


class NotAcceptableError(ServiceError):
    """None of the formats in ``Accept`` can be made. Ask for one that the answer names."""

    status = HTTPStatus.NOT_ACCEPTABLE


class ConflictError(ServiceError):
    """The thing is in a state that does not allow the call, as a job that has ended. Look at it first."""

    status = HTTPStatus.CONFLICT


class TooLargeError(ServiceError):
    """The body is larger than the bound. Send less."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMediaError(ServiceError):
    """The body is of another media type than the call takes. Send the one that the answer names."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class UnprocessableError(ServiceError):
    """The input is wrong. Mend the field that the answer names, within its bound."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class UnavailableError(ServiceError):
    """A part that the call needs is away. Try again later, or start it."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class Problem(JSONResponse):
    """One problem as its own media type."""

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


def answer(error: Exception) -> Problem:
    """The answer to any error; one that nobody has foreseen is logged and becomes a 500."""
    for kind, translate in _TRANSLATIONS.items():
        if isinstance(error, kind):
            return translate(error)
    logger.error("an error that nobody has foreseen", exc_info=error)
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "this is our fault; the log of the service has the reason")


def _translate_http(error: HTTPException) -> Problem:
    return Problem(error.status_code, error.detail, getattr(error, "errors", None), error.headers)


def _translate_validation(error: RequestValidationError) -> Problem:
    errors = [_translate_item(item) for item in error.errors()]
    detail = "; ".join(f"{item['field']}: {item['detail']}" for item in errors)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors)


def _translate_unknown_version(error: UnknownVersionError) -> Problem:
    bound = {"loaded": error.loaded} if error.loaded else None
    return _translate_http(NotFoundError(str(error), field=error.field, bound=bound))


def _translate_busy(error: EngineBusyError) -> Problem:
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, str(error), headers={"Retry-After": str(error.retry_seconds)})


def _translate_redis(error: Exception) -> Problem:
    logger.warning("redis is away: %s", error)
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, REDIS_AWAY)


# The first row whose class fits says what the answer is.
_TRANSLATIONS: Mapping[type[Exception], Callable[[Any], Problem]] = {
    HTTPException: _translate_http,
    RequestValidationError: _translate_validation,
    UnknownVersionError: _translate_unknown_version,
    ImpossiblePictureError: lambda error: _translate_http(UnprocessableError(str(error), field="scale")),
    EngineBusyError: _translate_busy,
    TooLateError: lambda error: Problem(HTTPStatus.GATEWAY_TIMEOUT, str(error)),
    KeyReusedError: lambda error: _translate_http(
        UnprocessableError("this key came before with another body; use a new key", field="Idempotency-Key")
    ),
    RedisError: _translate_redis,
    OperationalError: _translate_redis,
}


def _translate_item(item: Mapping[str, Any]) -> FieldError:
    """One of pydantic's errors: ``loc`` is (where, field, …), ``ctx`` holds the bound."""
    where, *path = item["loc"]
    named = isinstance(path[0], str) if path else False
    field = ".".join(str(part) for part in path) if named else str(where)
    bound = {name: value for name, value in item.get("ctx", {}).items() if isinstance(value, int | float | str)}
    return _name_field(field, item["msg"], bound)


def _name_field(field: str, detail: str, bound: Any) -> FieldError:
    return {"field": field, "detail": detail} | ({"bound": bound} if bound else {})
