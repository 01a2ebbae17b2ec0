"""What goes wrong, with its HTTP status; every answer of it is ``application/problem+json``.

    ServiceError
    ├── Unknown          404  no such version, job or path
    ├── NotAcceptable    406  no such format
    ├── Conflict         409  the job has ended
    ├── TooLarge         413  the body
    ├── UnsupportedMedia 415  of the body
    ├── Unprocessable    422  bad input, with the field and the bound
    ├── Busy             429  try again later
    ├── Unavailable      503  a part that the call needs is away
    └── Late             504  the answer would come after its deadline

The problem's members are those of RFC 9457, and ``errors``: one ``{field, detail, bound}`` for
each thing that is wrong with the input.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

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
        self.errors = [_field_error(field, detail, bound)] if field else []


class Unknown(ServiceError):
    status = HTTPStatus.NOT_FOUND


class NotAcceptable(ServiceError):
    status = HTTPStatus.NOT_ACCEPTABLE


class Conflict(ServiceError):
    status = HTTPStatus.CONFLICT


class TooLarge(ServiceError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class UnsupportedMedia(ServiceError):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class Unprocessable(ServiceError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class Busy(ServiceError):
    status = HTTPStatus.TOO_MANY_REQUESTS


class Unavailable(ServiceError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class Late(ServiceError):
    status = HTTPStatus.GATEWAY_TIMEOUT


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


def http_error(error: HTTPException) -> Response:
    """The answer of an error that has a status."""
    if error.status_code == HTTPStatus.NO_CONTENT:  # which ends a stream of events, and is no problem
        return Response(status_code=HTTPStatus.NO_CONTENT)
    if error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI's word for a body that is no text
        error = Unprocessable("the body is not JSON in UTF-8", field="body")
    return Problem(error.status_code, error.detail, getattr(error, "errors", None), error.headers)


def bad_input(error: RequestValidationError) -> Problem:
    """The answer of input that does not fit."""
    errors = [_of_validation(item) for item in error.errors()]
    detail = "; ".join(f"{item['field']}: {item['detail']}" for item in errors)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors)


def our_fault() -> Problem:
    """The answer of an error that nobody has foreseen."""
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "this is our fault; the log of the service has the reason")


def install(app: FastAPI) -> None:
    """Have every error of ``app`` answered as a problem."""

    async def on_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return http_error(error)

    async def on_bad_input(_: Request, error: Exception) -> Problem:
        assert isinstance(error, RequestValidationError)
        return bad_input(error)

    async def redis_away(_: Request, error: Exception) -> Problem:
        logger.warning("redis is away: %s", error)
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, REDIS_AWAY)

    async def on_our_fault(_: Request, error: Exception) -> Problem:
        return our_fault()

    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_bad_input)
    app.add_exception_handler(RedisError, redis_away)
    app.add_exception_handler(OperationalError, redis_away)
    app.add_exception_handler(Exception, on_our_fault)


def _of_validation(item: Mapping[str, Any]) -> FieldError:
    """One of pydantic's errors: ``loc`` is (where, field, …), ``ctx`` holds the bound."""
    where, *path = item["loc"]
    named = isinstance(path[0], str) if path else False
    field = ".".join(str(part) for part in path) if named else str(where)
    bound = {name: value for name, value in item.get("ctx", {}).items() if isinstance(value, int | float | str)}
    return _field_error(field, item["msg"], bound)


def _field_error(field: str, detail: str, bound: Any) -> FieldError:
    return {"field": field, "detail": detail} | ({"bound": bound} if bound else {})
