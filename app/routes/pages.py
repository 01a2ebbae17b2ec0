"""The page: its views, its own files, and nothing from other hosts.

Every address in it is relative, so it works behind a prefix. Scripts ask the API as any client does; drawing and
the list of jobs work without scripts.
"""

import gzip
import hashlib
import random
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError
from redis.exceptions import RedisError

from app import comparison, languages
from app.dependencies import GeneratorsDep, JobQueue, ResourcesDep
from app.errors import NotFoundError, UnavailableError
from app.generators import Entry, Generators, UnknownVersionError
from app.orders import DEFAULT_N, MAX_N, MAX_TEXT, Order
from app.rendering import measure_grid
from models import classifier, seeds
from models.archs import ARCHS
from models.manifest import Manifest
from models.seed_index import SEEDS
from worker.jobs import MAX_EPOCHS, Job, JobStore
from worker.recipes import DEFAULT_RECIPE, RECIPES

WEB = Path(__file__).parents[1] / "web"

VIEWS = {"draw": "./", "compare": "compare", "training": "training", "morph": "morph"}  # in the menu, and their paths

# Nothing but our own files runs, is shown or is asked; data: and blob: are pictures that scripts have fetched.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
    "Vary": "Accept-Language, Cookie",
}
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
YEAR_SECONDS = 365 * 24 * 3600

COOKIE = "lang"

DEFAULT_ARCH = "wgan"
SCALE = 4
MAX_CHOICES = 50  # versions of an architecture in a menu, the newest ones
LISTED = 100  # jobs
COMPARED = 16  # digits of each picture

CODE = {  # how to send a request; scripts fill in the same texts
    "curl": "curl '{address}' -o digits.png",
    "Python": 'from urllib.request import urlretrieve\n\nurlretrieve("{address}", "digits.png")',
    "JavaScript": 'const answer = await fetch("{address}");\n'
    "if (!answer.ok) throw new Error((await answer.json()).detail);\nconst picture = await answer.blob();",
}

# Mistakes in the form: the kind of pydantic's error → a sentence of the scripts, and the name of its bound.
SENTENCES = {
    "greater_than_equal": ("at_least", "ge"),
    "less_than_equal": ("at_most", "le"),
    "seed_range": ("at_most", "le"),
    "too_many": ("too_long", "le"),
    "string_too_long": ("too_long", "max_length"),
    "string_pattern_mismatch": ("only_digits", ""),
    "int_parsing": ("whole_number", ""),
}

router = APIRouter(include_in_schema=False)

T = TypeVar("T")


@router.get("/")
async def show_draw(request: Request, resources: ResourcesDep) -> HTMLResponse:
    """Draw: the form, and the picture that it asks for."""
    given = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
    if "again" in given:
        given.pop("seed", None)
    generators = resources.generators
    arch = given.get("arch", DEFAULT_ARCH)
    form = {"arch": arch, "version": "", "digit": "", "text": "", "n": "", "scale": str(SCALE), "seed": ""}
    form |= {name: value for name, value in given.items() if name in form}
    strings = _load_strings(request)
    problems: list[str] = []
    address, described, size = "", "", (0, 0)
    try:
        order = Order.model_validate({name: value for name, value in form.items() if value})
        manifest, problem = await _find_version(generators, order.arch, order.version, strings)
        if problem:
            problems, form["version"] = [problem], ""
        seed = random.randrange(SEEDS) if order.seed is None else order.seed
        form |= {"seed": str(seed), "n": form["n"] or str(order.n or (1 if order.text else DEFAULT_N))}
        asked = {name: value for name, value in form.items() if value} | {"version": manifest.version}
        address = urlencode(asked)
        described = strings["script"]["described"].format(
            n=form["n"], name=strings["archs"][order.arch]["name"], version=manifest.version, seed=seed
        )
        size = (0, 0) if order.text else measure_grid(order.count, order.across, order.scale)
    except ValidationError as error:
        problems = [_explain(item, strings) for item in error.errors(include_url=False)]
    except UnknownVersionError as error:  # there is none at all
        problems = [str(error)]
    picture = f"generate?{address}" if address else ""
    code = {kind: text.format(address=f"{request.base_url}{picture}") for kind, text in CODE.items()} if picture else {}
    choices = {arch: _list_choices(generators, arch, strings) for arch in ARCHS}
    data = {"code": CODE, "versions": choices, "seeds": SEEDS, "labels": _list_labels(strings["draw"], form)}
    return _render(
        request, "draw", data, status=422 if problems else 200,
        archs=ARCHS, order=form, versions=choices, problems=problems, picture=picture, described=described, size=size,
        link=f"./?{address}", name="digits.png", code=code,
        bounds={"n": MAX_N, "text": MAX_TEXT, "seed": seeds.MAX_SEED},
    )  # fmt: skip


@router.get("/compare")
async def show_compare(request: Request, generators: GeneratorsDep) -> HTMLResponse:
    """Compare: pictures from the same seeds, facts, and the blind test."""
    seed = _read_number(request, "seed", seeds.find_last_first(COMPARED), 0)
    columns = {arch: await anyio.to_thread.run_sync(_find_compared, generators, arch) for arch in ARCHS}
    recipes = list(dict.fromkeys(recipe for found in columns.values() for recipe in found))
    return _render(
        request, "compare", {"versions": _name_versions(columns)},
        columns=columns, recipes=recipes, metrics=comparison.METRICS, floors=classifier.facts().floors,
        parameters=comparison.count_parameters(), colab=comparison.COLAB_SECONDS, seed=seed, n=COMPARED,
        other_seed=random.randrange(10_000),
    )  # fmt: skip


@router.get("/training")
async def show_training(request: Request, resources: ResourcesDep) -> HTMLResponse:
    """Train: the form and the jobs."""
    jobs, problem = await _ask_queue(resources.job_queue, lambda store: store.list_newest(LISTED), list[Job]())
    choices = {arch: {name: rows[arch].epochs for name, rows in RECIPES.items() if arch in rows} for arch in ARCHS}
    form = {"arch": DEFAULT_ARCH, "recipe": DEFAULT_RECIPE, "epochs": "", "seed": "", "measure_every": ""}
    form |= {name: value for name, value in request.query_params.items() if name in form}
    return _render(
        request, "training", {"recipes": choices, "default": DEFAULT_RECIPE},
        jobs=jobs, problem=problem, archs=ARCHS, recipes=RECIPES, order=form,
        epochs=choices[DEFAULT_ARCH][DEFAULT_RECIPE], bounds={"epochs": MAX_EPOCHS, "seed": seeds.MAX_SEED},
    )  # fmt: skip


@router.get("/watch")
async def show_watch(request: Request, resources: ResourcesDep) -> HTMLResponse:
    """Watch a job, or replay a version: ``job``, or ``arch`` and ``version``."""
    strings = _load_strings(request)
    asked = {name: request.query_params.get(name, "") for name in ("job", "arch", "version")}
    job, problem = None, ""
    if asked["job"]:
        job, problem = await _ask_queue(resources.job_queue, lambda store: store.get(asked["job"]), None)
        if not job and not problem:
            return _render(request, "problem", {}, status=404, problem=strings["script"]["unknown_job"])
        arch, version = (job.arch, job.version) if job else ("", None)
        source = f"jobs/{asked['job']}"
        heading = strings["watch"]["job"].format(
            name=strings["archs"].get(arch, {"name": "?"})["name"], id=asked["job"]
        )
    else:
        try:
            entry = await resources.generators.find_entry(asked["arch"], asked["version"])
        except UnknownVersionError as error:
            sentence = str(error) if asked["version"] else strings["problem"]["no_target"]
            return _render(request, "problem", {}, status=404, problem=sentence)
        arch, version, source = entry.arch, entry.version, f"models/{entry.arch}/{entry.version}"
        heading = strings["watch"]["version"].format(name=strings["archs"][arch]["name"], version=version)
    data = {"job": asked["job"], "source": source}
    return _render(
        request, "watch", data,
        source=source, heading=heading, arch=arch, version=version, job=job, problem=problem,
    )  # fmt: skip


@router.get("/morph")
async def show_morph(request: Request, generators: GeneratorsDep) -> HTMLResponse:
    """Morph: from one digit to another."""
    arch = request.query_params.get("arch", DEFAULT_ARCH)
    arch = arch if arch in ARCHS else DEFAULT_ARCH
    ends = {name: _read_number(request, name, seeds.MAX_SEED, random.randrange(SEEDS)) for name in ("from", "to")}
    version, query, problem = request.query_params.get("version", ""), "", ""
    strings = _load_strings(request)
    try:
        manifest, problem = await _find_version(generators, arch, version or None, strings)
        version = "" if problem else version
        query = urlencode({"arch": arch, **ends, "version": manifest.version})
    except UnknownVersionError as error:  # there is none at all
        problem = str(error)
    data = {"labels": _list_labels(strings["morph"], ends)}
    return _render(
        request, "morph", data,
        archs=ARCHS, arch=arch, version=version, ends=ends, query=query, problem=problem,
        bounds={"seed": seeds.MAX_SEED},
    )  # fmt: skip


@router.get("/static/{build}/{name}")
async def get_static(build: str, name: str, request: Request) -> Response:
    """A file of the page. ``build`` names the content of all files, so a file of this build never changes."""
    files = _load_static()
    if name not in files:
        raise NotFoundError(f"there is no file {name}", field="name", bound=list(files))
    is_packed = "gzip" in request.headers.get("accept-encoding", "")
    plain, packed = files[name]
    headers = {
        "Cache-Control": f"public, max-age={YEAR_SECONDS}, immutable" if build == _find_build() else "no-cache",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    return Response(packed if is_packed else plain, media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)


def _render(request: Request, view: str, data: dict[str, Any], *, status: int = 200, **context: Any) -> HTMLResponse:
    """A view in the language of the request. ``data`` is what its script gets."""
    lang = _choose_language(request)
    strings = _load_strings(request)
    here = {name: value for name, value in request.query_params.items() if name not in (COOKIE, "again")}
    everywhere = {
        "view": view,
        "views": VIEWS,
        "lang": lang,
        "languages": {code: f"?{urlencode({**here, COOKIE: code})}" for code in languages.load()},
        "names": {code: texts["site"]["name"] for code, texts in languages.load().items()},
        "strings": strings,
        "static": f"static/{_find_build()}",
        "title": f"{strings[view]['title']} – digits",
        "data": data,
    }
    html = _load_templates().get_template(f"{view}.html").render(everywhere | context)
    response = HTMLResponse(html, status, HEADERS)
    if request.query_params.get(COOKIE) == lang:
        response.set_cookie(COOKIE, lang, max_age=YEAR_SECONDS, path=f"{request.scope['root_path']}/", samesite="lax")
    return response


def _load_strings(request: Request) -> dict[str, Any]:
    """The strings in the language of the request. An architecture that has none there goes by its plain name."""
    strings = languages.load()[_choose_language(request)]
    return {**strings, "archs": {arch: strings["archs"].get(arch, {"name": arch, "what": ""}) for arch in ARCHS}}


def _choose_language(request: Request) -> str:
    header = request.headers.get("accept-language", "")
    return languages.choose(header, request.query_params.get(COOKIE), request.cookies.get(COOKIE))


async def _ask_queue(queue: JobQueue | None, call: Callable[[JobStore], T], otherwise: T) -> tuple[T, str]:
    """The answer of the queue, or ``otherwise`` and the name of the sentence that says why."""
    if queue is None:
        return otherwise, "redis_missing"
    try:
        return await queue.ask(call, queue.jobs), ""
    except (RedisError, UnavailableError):
        return otherwise, "redis_away"


def _say_duration(seconds: float | None, strings: Any) -> str:
    """As "3 min", in the language of ``strings``."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    name = "hours" if hours else "minutes" if minutes else "seconds"
    text: str = strings["site"][name].format(hours=hours, minutes=minutes, seconds=rest)
    return text


async def _find_version(generators: Generators, arch: str, version: str | None, strings: Any) -> tuple[Manifest, str]:
    """The version; or the best one, and a sentence that says why.

    Raises:
        UnknownVersionError: the architecture has none at all.
    """
    try:
        return (await generators.find(arch, version)).manifest, ""
    except UnknownVersionError as error:
        best = await generators.find(arch, None)
        return best.manifest, strings["draw"]["instead"].format(detail=error)


def _list_choices(generators: Generators, arch: str, strings: Any) -> list[dict[str, Any]]:
    """The newest usable versions of an architecture, as a menu shows them."""
    usable = [entry for entry in generators.entries if entry.arch == arch and entry.is_usable and entry.manifest]
    return [{"version": entry.version, "label": _label(entry, strings)} for entry in usable[::-1][:MAX_CHOICES]]


def _label(entry: Entry, strings: Any) -> str:
    assert entry.manifest
    text: str = strings["draw"]["choice"].format(
        version=entry.version, recipe=entry.manifest.recipe_name, epochs=entry.manifest.epochs
    )
    return f"{text} ★" if entry.is_default else text


def _find_compared(generators: Generators, arch: str) -> dict[str, comparison.Facts]:
    """Recipe → the facts of its best version: those of the default version and those of ``book``."""
    default = next((entry for entry in generators.entries if entry.arch == arch and entry.is_default), None)
    found: dict[str, comparison.Facts] = {}
    for entry in (default, generators.find_best(arch, "book")):
        if entry and (facts := comparison.gather(entry)):
            found.setdefault(facts.manifest.recipe_name, facts)
    return found


def _name_versions(columns: dict[str, dict[str, comparison.Facts]]) -> dict[str, dict[str, int]]:
    return {
        arch: {recipe: facts.manifest.version for recipe, facts in found.items()} for arch, found in columns.items()
    }


def _list_labels(strings: Any, fields: Iterable[str]) -> dict[str, str]:
    """What scripts call the fields of a form."""
    return {name: strings[name] for name in fields if name in strings}


def _explain(item: Any, strings: Any) -> str:
    """A mistake in the form, as a sentence."""
    name = str(item["loc"][0]) if item["loc"] else "query"
    label = strings["draw"].get(name, name)
    if item["type"] == "excluded":
        return str(strings["draw"]["not_both"])
    if item["type"] in SENTENCES:
        sentence, bound = SENTENCES[item["type"]]
        return str(strings["script"][sentence].format(field=label, bound=item.get("ctx", {}).get(bound)))
    return f"{label}: {item['msg']}"


def _read_number(request: Request, name: str, last: int, otherwise: int) -> int:
    """A number 0…``last`` of the query; ``otherwise`` if it is none."""
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= last else otherwise


@cache
def _load_templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(WEB / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters["duration"] = _say_duration
    templates.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return templates


@cache
def _load_static() -> dict[str, tuple[bytes, bytes]]:
    """Name → content of every file of the page, plain and packed."""
    contents = {path.name: path.read_bytes() for path in sorted((WEB / "static").iterdir())}
    return {name: (content, gzip.compress(content, mtime=0)) for name, content in contents.items()}


@cache
def _find_build() -> str:
    return hashlib.sha256(repr(_load_static()).encode()).hexdigest()[:12]
