"""The layer that lets pages of other sites use the service (CORS): Starlette's, with the headers that clients need."""

from collections.abc import Collection

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

MAX_AGE_SECONDS = 600  # that a browser keeps what it was told

# What scripts may send and read, beside what every page may.
SENT = (
    "Authorization",
    "X-API-Key",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "X-Request-ID",
    "traceparent",
)
READ = (
    "ETag",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Arch",
    "X-Request-ID",
    "X-Seed",
    "X-Seeds",
    "X-Version",
)


def make_cors(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """The layer for pages of these origins. They send a key as a header: the cookie is for our own pages."""
    return CORSMiddleware(
        app,
        allow_origins=sorted(origins),
        allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE"),
        allow_headers=SENT,
        expose_headers=READ,
        max_age=MAX_AGE_SECONDS,
    )
