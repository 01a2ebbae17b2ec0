"""Route classes: how a request reaches its endpoint, if not in FastAPI's own way."""

import json
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache
from typing import Any, cast

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from app.errors import UnprocessableError, UnsupportedMediaError

JSON = "application/json"

MAX_NUMBER = 999_999_999


class NumberConvertor(Convertor[str]):
    """``{version:number}`` in a path: the number of a version, and not one of its other names."""

    regex = "[1-9][0-9]{0,8}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("number", NumberConvertor())


class JsonRoute(APIRoute):
    """Accepts only JSON bodies: 415 for another media type, 422 for bytes that are not JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def check_and_handle(request: Request) -> Response:
            media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if media_type != JSON:
                detail = f"the body is {media_type or 'of no media type'}; send {JSON}"
                raise UnsupportedMediaError(detail, field="Content-Type", bound=JSON)
            coding = join_lines(request, "content-encoding").lower()
            if coding not in ("", "identity"):
                detail = f"the body is packed as {coding}; send it as it is"
                raise UnsupportedMediaError(detail, field="Content-Encoding", bound="identity")
            if problem := _find_problem(await request.body()):
                raise UnprocessableError(problem, field="body")
            return await handle(request)

        return check_and_handle


def _find_problem(body: bytes) -> str | None:
    """Why Python cannot read a body as JSON, if it cannot."""
    try:
        json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return "the body is not JSON"
    except RecursionError:
        return "the body is nested too deeply"
    except ValueError:
        return "a number of the body has too many digits"
    return None


class DirectRoute(APIRoute):
    """For the busiest routes: FastAPI only documents the endpoint, and this class calls it.

    The endpoint is ``async (query model, request, accept) -> Response``. It gets no dependencies, and
    its return value is not converted. A request with a body is refused: its parameters would be ignored.
    All that saves more time than a small picture takes to draw:
    docs/trials.md. Requests still pass through all layers of ``app.main``.
    """

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[Response]], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if self.dependant.dependencies or len(self.dependant.query_params) != 1:
            raise TypeError(f"{path}: a DirectRoute has one query model and no dependencies; guards are layers")
        (query,) = self.dependant.query_params
        parse = _make_parser(cast("type[BaseModel]", query.field_info.annotation))

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            if request.headers.get("content-length", "0").strip("0") or "transfer-encoding" in request.headers:
                detail = f"parameters go into the query, as {path}?arch=wgan&n=16; send no body"
                raise UnprocessableError(detail, field="body")
            response = await endpoint(parse(scope["query_string"]), request, join_lines(request, "accept") or "*/*")
            await response(scope, receive, send)

        self.app = call


def join_lines(request: Request, name: str) -> str:
    """The value of a header that is a list and may have several lines (RFC 9110, 5.2); empty if it is absent."""
    return ", ".join(request.headers.getlist(name)).strip()


def _make_parser(model: type[BaseModel]) -> Callable[[bytes], BaseModel]:
    """A function from a query string to ``model``.

    Raises:
        RequestValidationError: the query does not fit the model.
    """

    @lru_cache  # many requests have the same query, without a seed
    def parse(query: bytes) -> BaseModel:
        try:
            return model.model_validate(dict(QueryParams(query)))
        except ValidationError as error:
            problems = error.errors(include_url=False)
            raise RequestValidationError([{**item, "loc": ("query", *item["loc"])} for item in problems]) from None

    return parse
