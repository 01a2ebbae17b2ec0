"""What OpenAPI says of answers: problems, pictures, and headers. FastAPI says the rest."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from app.keys import Scope
from app.rendering import FORMATS
from app.scopes import COOKIE, LOCAL, find_scope

Described = dict[int | str, dict[str, Any]]

PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "What went wrong (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "the phrase of the status"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong, and what to do"},
        "errors": {
            "type": "array",
            "description": "one for each mistake in the input",
            "items": {
                "type": "object",
                "title": "FieldError",
                "required": ["field", "detail"],
                "properties": {
                    "field": {"type": "string"},
                    "detail": {"type": "string"},
                    "bound": {"description": "what is allowed, as {le: 1024}"},
                },
            },
        },
    },
}

_DIGIT = {
    "seed": {"type": "integer"},
    "digit": {"type": "integer", "minimum": 0, "maximum": 9, "description": "what it is, as two classifiers read it"},
    "confidence": {
        "type": "number",
        "description": "the mean probability of both classifiers, rounded down, at most 0.999",
    },
}
_PNG = {"png": {"type": "string", "contentEncoding": "base64", "description": "a PNG"}}

PICTURES = {
    "type": "object",
    "title": "Pictures",
    "required": ["arch", "version", "seed", "sha256", "images"],
    "properties": {
        "arch": {"type": "string"},
        "version": {"type": "integer"},
        "seed": {"type": "integer", "description": "of the first digit"},
        "sha256": {"type": "string", "description": "of the weights"},
        "images": {
            "type": "array",
            "items": {
                "oneOf": [
                    {
                        "type": "object",
                        "title": "Digit",
                        "required": [*_DIGIT, *_PNG],
                        "properties": _DIGIT | _PNG,
                    },
                    {
                        "type": "object",
                        "title": "Line",
                        "description": "of a text",
                        "required": ["digits", *_PNG],
                        "properties": {
                            "digits": {
                                "type": "array",
                                "items": {"type": "object", "required": list(_DIGIT), "properties": _DIGIT},
                            },
                            **_PNG,
                        },
                    },
                ]
            },
        },
    },
}

_EPOCH = {
    "epoch": {"type": "integer", "minimum": 1},
    "d_loss": {"type": "number", "description": "the discriminator's loss, the mean of the epoch"},
    "g_loss": {"type": "number", "description": "the generator's loss, the mean of the epoch"},
    "d_real": {"type": "number", "description": "what D says of real images: d_output says what that is"},
    "d_fake": {"type": "number", "description": "the same of generated images"},
    "d_output": {"enum": ["probability", "score", "raw"]},
    "wasserstein": {"type": "number", "description": "of a Wasserstein critic, d_real − d_fake"},
    "images_per_second": {"type": "number", "description": "training images, since the run began"},
    "seconds": {"type": "number", "description": "of training since the run began, without measuring"},
    "metrics": {"type": "object", "description": "of the images after this epoch; empty if it was not measured"},
}
EPOCHS = {
    "type": "array",
    "title": "Epochs",
    "items": {"type": "object", "title": "Epoch", "required": ["epoch"], "properties": _EPOCH},
}

_BINARY = {"type": "string", "format": "binary"}

EVENT = {  # of a stream; OpenAPI 3.1 has no word for it
    "type": "object",
    "title": "Event",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "description": "for Last-Event-ID"},
        "event": {"enum": ["queued", "started", "epoch", "metric", "sample", "published", "ended"]},
        "data": {"type": "string", "contentMediaType": "application/json", "description": "an object"},
    },
}

# A problem that every operation may answer with: the layers of app/main.py and the protocol see to that.
COMMON = (400, 408, 413, 414, 421, 422, 431, 500, 503)
OF_CHANGES = (403,)  # of all methods but GET
OF_KEYS = (401, 403)  # where a key is asked for
OF_DRAWING = (429,)  # where limits are

# The ways to send a key. In each of them, OpenAPI names the scope that is needed.
_SCHEMES: Mapping[str, Mapping[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE},
}

_TO_LOGIN = {"description": "a browser that asks for HTML without a key is sent to the page that asks for one"}

_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"WWW_Authenticate": "what is asked for: Bearer (RFC 6750)"},
    429: {"Retry_After": "the seconds until another try is worth it"},
    503: {"Retry_After": "as in 429, where it is known"},
}


def describe_headers(**headers: str) -> dict[str, Any]:
    """Headers of an answer, by their names with underscores, and what they say."""
    return {
        name.replace("_", "-"): {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
    }


def describe_problems(*statuses: int) -> Described:
    """Answers that are problems."""
    described: Described = {}
    for status in statuses:
        content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        described[status] = {"description": HTTPStatus(status).phrase, "content": content}
        if headers := _HEADERS.get(status):
            described[status]["headers"] = describe_headers(**headers)
    return described


def describe_pictures() -> dict[str, Any]:
    """The bodies of ``/generate``."""
    return {name: {"schema": PICTURES if name == "application/json" else _BINARY} for name in FORMATS}


BY_VERSION: Mapping[str, str] = {"X_Arch": "the architecture that drew", "X_Version": "its version"}


def describe_cached(
    media_type: str, headers: Mapping[str, str] | None = None, schema: Mapping[str, Any] = _BINARY
) -> Described:
    """An answer of one media type that clients may keep; ``headers`` as for :func:`describe_headers`."""
    kept = describe_headers(
        ETag="of what the answer depends on", Cache_Control="for how long it is fresh", **(headers or {})
    )
    return {
        200: {"description": "the answer", "content": {media_type: {"schema": schema}}, "headers": kept},
        304: {"description": "what ``If-None-Match`` names has not changed", "headers": kept},
    }


def complete(schema: dict[str, Any], *, asks_for_keys: bool) -> None:
    """Add to FastAPI's schema what every operation may answer, and the keys that it asks for."""
    components = schema.setdefault("components", {})
    components["securitySchemes"] = _SCHEMES
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own 422, which is never sent
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM
    for operations in schema["paths"].values():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                _forbid_null(parameter)
            for answer in operation["responses"].values():
                for body in answer.get("content", {}).values():
                    if "x-itemSchema" in body:  # FastAPI adds that the whole is a string
                        body.pop("schema", None)
            needed = find_scope(operation["operationId"])
            if needed:
                may_lack: list[dict[str, Any]] = [{}] if operation["operationId"] in LOCAL or not asks_for_keys else []
                operation["security"] = [*may_lack, *({name: [needed]} for name in _SCHEMES)]
            common = COMMON + OF_KEYS * bool(needed) + OF_DRAWING * (needed is Scope.DRAW)
            common += OF_CHANGES * (method != "get")
            described = {str(status): answer for status, answer in describe_problems(*common).items()}
            if needed and method == "get":
                described["303"] = _TO_LOGIN
            own = {status: answer for status, answer in operation["responses"].items() if status != "422"}
            operation["responses"] = dict(sorted({**described, **own}.items()))
    for operations in schema.get("webhooks", {}).values():
        for operation in operations.values():  # what receivers answer is theirs
            operation["responses"] = {"2XX": {"description": "taken"}, "410": {"description": "sent no more"}}


def _forbid_null(parameter: dict[str, Any]) -> None:
    """A parameter may be absent, but there is no way to write null in a query or a header."""
    kinds = parameter["schema"].pop("anyOf", [])
    for kind in kinds:
        if kind != {"type": "null"}:
            parameter["schema"] |= kind
