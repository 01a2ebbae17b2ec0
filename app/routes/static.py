"""``/static``: the page's own files."""

from pathlib import Path

from fastapi import APIRouter, Request, Response

from app import static
from app.errors import NotFoundError

MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
YEAR_SECONDS = 365 * 24 * 3600

router = APIRouter(include_in_schema=False)


@router.get("/static/{build}/{name}")
async def get_static(build: str, name: str, request: Request) -> Response:
    """A file. One of another build may be asked for while a new release is rolled out: it gets what there is now."""
    files = static.load()
    if name not in files:
        raise NotFoundError(f"there is no file {name}", field="name", bound=list(files))
    plain, packed = files[name]
    is_packed = "gzip" in request.headers.get("accept-encoding", "")
    headers = {
        "Cache-Control": f"public, max-age={YEAR_SECONDS}, immutable" if build == static.find_build() else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    return Response(packed if is_packed else plain, media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)
