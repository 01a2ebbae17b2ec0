"""Views of the page: a template, in the language of the visitor, under a policy that lets nothing else run."""

from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.types import Scope

from app import languages, static
from app.calls import get_call
from models.archs import ARCHS

TEMPLATES = Path(__file__).parent / "web" / "templates"

MENU = {"draw": "./", "compare": "compare", "training": "training", "morph": "morph"}  # view → its address

# Nothing but our own files runs, is shown or is asked; data: and blob: are pictures that scripts have fetched.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "private, no-cache",
    "Vary": "Accept-Language, Cookie",
}

ROUTES = frozenset({"show_draw", "show_compare", "show_training", "show_watch", "show_morph"})  # of the views
PASSING = (429, 503)  # a view that is opened again may be there
RETRY_SECONDS = 5  # until a view is opened again, if nobody says when it may be there

LANGUAGE = "lang"  # in the query, and the cookie that keeps it
YEAR_SECONDS = 365 * 24 * 3600

Strings = dict[str, Any]


class Visit:
    """One request for a view."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.query = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
        header = request.headers.get("accept-language", "")
        self.lang = languages.choose(header, self.query.get(LANGUAGE), request.cookies.get(LANGUAGE))
        strings = languages.load()[self.lang]
        # An architecture that has no words in this language goes by its plain name.
        archs = {arch: strings["archs"].get(arch, {"name": arch, "what": ""}) for arch in ARCHS}
        self.strings: Strings = {**strings, "archs": archs}

    def read_number(self, name: str, last: int, otherwise: int) -> int:
        """A number 0…``last`` of the query; ``otherwise`` if it is none."""
        text = self.query.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= last else otherwise

    def list_labels(self, view: str, fields: Iterable[str]) -> dict[str, str]:
        """What the fields of a form are called."""
        return {name: name_field(self.strings[view], name) for name in fields}

    def say_instead(self, arch: str, version: str | None, problem: Exception) -> str:
        """That a version cannot be used, and that the best one is shown."""
        text: str = self.strings["draw"]["instead"]
        return text.format(name=self.strings["archs"][arch]["name"], version=version, detail=problem)

    def say_none(self, arch: str, problem: Exception) -> str:
        """That an architecture has no version that can be used."""
        text: str = self.strings["draw"]["none"]
        return text.format(name=self.strings["archs"][arch]["name"], detail=problem)

    def render_problem(self, sentence: str, status: int, seconds: int = 0) -> HTMLResponse:
        """A page that says a problem; if it may pass, it is opened again after some seconds."""
        heading = self.strings["problem"]["not_there" if status == HTTPStatus.NOT_FOUND else "title"]
        return self.render("problem", {}, status=status, heading=heading, problem=sentence, seconds=seconds)

    def render(self, view: str, data: dict[str, Any], *, status: int = 200, **context: Any) -> HTMLResponse:
        """The template of a view. ``data`` is what its script gets."""
        here = {name: value for name, value in self.query.items() if name not in (LANGUAGE, "again")}
        everywhere = {
            "view": view,
            "views": MENU,
            "lang": self.lang,
            "languages": {code: f"?{urlencode({**here, LANGUAGE: code})}" for code in languages.load()},
            "names": {code: texts["site"]["name"] for code, texts in languages.load().items()},
            "strings": self.strings,
            "static": f"static/{static.find_build()}",
            "title": f"{context.get('heading') or self.strings[view]['title']} – digits",
            "data": data,
            "key": get_call(self._request.scope).key,
        }
        html = _load_templates().get_template(f"{view}.html").render(everywhere | context)
        get_call(self._request.scope).policy = POLICY
        response = HTMLResponse(html, status, HEADERS)
        if self.query.get(LANGUAGE) == self.lang:
            path = f"{self._request.scope['root_path']}/"
            response.set_cookie(LANGUAGE, self.lang, max_age=YEAR_SECONDS, path=path, samesite="lax")
        return response


def name_field(strings: Mapping[str, str], field: str) -> str:
    """What a field is called in a sentence: its label, unless that is half a sentence itself."""
    return strings.get(f"{field}_name", strings.get(field, field))


def is_visit(scope: Scope) -> bool:
    """Whether a browser opens a page: no script and no other program asks for HTML."""
    accepts = any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
    return accepts and scope["method"] in ("GET", "HEAD")


def render_problem(request: Request, status: int, detail: str, retry_after: str) -> HTMLResponse:
    """An error in place of a view: what it is, what to do, and another try if it may pass.

    What was typed is in the address, so it is there again then.
    """
    visit = Visit(request)
    visit.query.pop(LANGUAGE, None)  # no cookie is set: the layer of errors does not know the prefix of the page
    strings = visit.strings
    sentences = {404: strings["problem"]["no_page"], 429: strings["script"]["busy"], 503: strings["script"]["not_now"]}
    otherwise = strings["problem"]["refused"] if status < 500 else strings["script"]["failed"]
    seconds = int(retry_after) if retry_after.isdigit() else RETRY_SECONDS
    sentence = sentences.get(status, otherwise).format(seconds=seconds, detail=detail)
    return visit.render_problem(sentence, status, seconds if status in PASSING else 0)


def render_docs(request: Request) -> HTMLResponse:
    """The page of Swagger UI, which sets styles of elements: the policy lets it."""
    page = (
        _load_templates()
        .get_template("docs.html")
        .render(title=request.app.title, static=f"static/{static.find_build()}")
    )
    get_call(request.scope).policy = POLICY.replace(b"style-src 'self'", b"style-src 'self' 'unsafe-inline'")
    return HTMLResponse(page, headers={"Cache-Control": "no-cache"})


def _say_duration(seconds: float | None, strings: Strings) -> str:
    """As "3 min", in the language of ``strings``, rounded."""
    if seconds is None:
        return ""
    seconds = round(seconds)
    if seconds >= 60:
        seconds = round(seconds / 60) * 60
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    name = "hours" if hours else "minutes" if minutes else "seconds"
    text: str = strings["site"][name].format(hours=hours, minutes=minutes, seconds=rest)
    return text


@cache
def _load_templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters["duration"] = _say_duration
    templates.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return templates
