"""``/``: the view that draws. Its form works without scripts."""

import random
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import ValidationError

from app.dependencies import GeneratorsDep
from app.entries import Entry, UnknownVersionError
from app.generators import Generators
from app.orders import DEFAULT_N, MAX_N, MAX_TEXT, Order
from app.rendering import measure_grid
from app.views import Strings, Visit
from models import seeds
from models.archs import ARCHS
from models.seed_index import SEEDS

DEFAULT_ARCH = "wgan"
SCALE = 4
MAX_CHOICES = 50  # versions of an architecture in a menu, the newest ones

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
    "excluded": ("not_both", ""),
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def show_draw(request: Request, generators: GeneratorsDep) -> HTMLResponse:
    """Draw: the form, and the picture that it asks for."""
    visit = Visit(request)
    form = {"arch": DEFAULT_ARCH, "version": "", "digit": "", "text": "", "n": "", "scale": str(SCALE), "seed": ""}
    form |= {name: value for name, value in visit.query.items() if name in form}
    if "again" in visit.query:
        form["seed"] = ""
    problems: list[str] = []
    picture, described, size = "", "", (0, 0)
    try:
        order = Order.model_validate({name: value for name, value in form.items() if value})
        loaded, problem = await generators.find_or_best(order.arch, order.version)
        if problem:
            form["version"] = ""
            problems = [visit.strings["draw"]["instead"].format(detail=problem)]
        form["n"] = form["n"] or str(order.n or (1 if order.text else DEFAULT_N))
        form["seed"] = form["seed"] or str(random.randrange(SEEDS))
        asked = {name: value for name, value in form.items() if value} | {"version": loaded.manifest.version}
        picture = f"generate?{urlencode(asked)}"
        size = (0, 0) if order.text else measure_grid(order.count, order.across, order.scale)
        described = visit.strings["script"]["described"].format(
            **asked, name=visit.strings["archs"][order.arch]["name"]
        )
    except ValidationError as error:
        problems = [_explain(item, visit.strings) for item in error.errors(include_url=False)]
    except UnknownVersionError as error:  # there is none at all
        problems = [str(error)]
    choices = {arch: _list_choices(generators, arch, visit.strings) for arch in ARCHS}
    data = {
        "code": CODE,
        "versions": choices,
        "seeds": SEEDS,
        "n": DEFAULT_N,
        "labels": visit.list_labels("draw", form),
    }
    return visit.render(
        "draw", data, status=422 if problems else 200,
        archs=ARCHS, order=form, versions=choices, problems=problems,
        picture=picture, size=size, described=described, link=picture.replace("generate", "./"),
        code={kind: text.format(address=f"{request.base_url}{picture}") for kind, text in CODE.items()},
        bounds={"n": MAX_N, "text": MAX_TEXT, "seed": seeds.MAX_SEED},
    )  # fmt: skip


def _list_choices(generators: Generators, arch: str, strings: Strings) -> list[dict[str, Any]]:
    """The newest usable versions of an architecture, as a menu shows them."""
    usable = [entry for entry in generators.entries if entry.arch == arch and entry.is_usable and entry.manifest]
    return [{"version": entry.version, "label": _label(entry, strings)} for entry in usable[::-1][:MAX_CHOICES]]


def _label(entry: Entry, strings: Strings) -> str:
    assert entry.manifest
    said = entry.manifest
    text: str = strings["draw"]["choice"].format(version=said.version, recipe=said.recipe_name, epochs=said.epochs)
    return f"{text} ★" if entry.is_default else text


def _explain(item: Any, strings: Strings) -> str:
    """A mistake in the form, as a sentence."""
    name = str(item["loc"][0]) if item["loc"] else "query"
    label = strings["draw"].get(name, name)
    if item["type"] not in SENTENCES:
        return f"{label}: {item['msg']}"
    sentence, bound = SENTENCES[item["type"]]
    text: str = strings["script"][sentence]
    return text.format(field=label, bound=item.get("ctx", {}).get(bound))
