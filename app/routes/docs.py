"""``/docs``: Swagger UI over this service's OpenAPI, with nothing from other hosts.

The script and the style come from the wheel ``fastapi-swagger``. All addresses are relative, so the
page works behind a prefix, too.
"""

from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse

from app.errors import NotFoundError
from app.views import render_docs

MEDIA_TYPES = {  # of the wheel's files
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def show_docs(request: Request) -> HTMLResponse:
    """The page."""
    return render_docs(request)


@router.get("/docs/{name}")
async def get_file(name: str) -> FileResponse:
    """A file of the page."""
    if name not in MEDIA_TYPES:
        raise NotFoundError(f"there is no file {name}", field="name", bound=list(MEDIA_TYPES))
    path = files("fastapi_swagger") / "resources" / name
    return FileResponse(str(path), media_type=MEDIA_TYPES[name], headers={"Cache-Control": "public, max-age=3600"})
