"""``/``: the view that draws. Its form works without scripts."""

import random
import re
import unicodedata
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import ValidationError

from app.calls import get_call
from app.dependencies import GeneratorsDep
from app.entries import Entry, UnknownVersionError
from app.generators import Generators
from app.orders import DEFAULT_N, MAX_N, MAX_TEXT, Order
from app.rendering import measure_grid
from app.views import Strings, Visit, name_field
from models import seeds
from models.archs import ARCHS
from models.seed_index import SEEDS

DEFAULT_ARCH = "wgan"
SCALE = 4
MAX_CHOICES = 50  # versions of an architecture in a menu, the newest ones

BETWEEN_DIGITS = re.compile(r"[\s().,+\-‐-―ー]")  # what people write there, as in 03-1234-5678; scripts get it, too

CODE = {  # how to send a request; scripts fill in the same texts
    "curl": "curl '{address}' -o digits.png",
    "Python": 'from urllib.request import urlretrieve\n\nurlretrieve("{address}", "digits.png")',
    "JavaScript": 'const answer = await fetch("{address}");\n'
    "if (!answer.ok) throw new Error((await answer.json()).detail);\nconst picture = await answer.blob();",
}
KEYED = {  # the same where a key is asked for; the key itself is no part of a text that people copy
    "curl": "curl -H \"Authorization: Bearer $DIGITS_KEY\" '{address}' -o digits.png",
    "Python": "import os\nfrom urllib.request import build_opener, install_opener, urlretrieve\n\n"
    'opener = build_opener()\nopener.addheaders = [("Authorization", "Bearer " + os.environ["DIGITS_KEY"])]\n'
    'install_opener(opener)\nurlretrieve("{address}", "digits.png")',
    "JavaScript": "const headers = { Authorization: `Bearer ${key}` };\n"
    'const answer = await fetch("{address}", { headers });\n'
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
    form["text"] = BETWEEN_DIGITS.sub("", unicodedata.normalize("NFKC", form["text"]))
    if "again" in visit.query:
        form["seed"] = ""
    problems: list[str] = []
    picture, replay, file, described, size = "", "", "", "", (0, 0)
    try:
        order = Order.model_validate({name: value for name, value in form.items() if value})
        loaded, problem = await generators.find_or_best(order.arch, order.version)
        if problem:
            form["version"] = ""
            problems = [visit.say_instead(order.arch, order.version, problem)]
        form["n"] = form["n"] or str(order.n or (1 if order.text else DEFAULT_N))
        form["seed"] = form["seed"] or str(random.randrange(SEEDS))
        asked = {name: value for name, value in form.items() if value} | {"version": loaded.manifest.version}
        picture = f"generate?{urlencode(asked)}"
        replay = f"watch?{urlencode({'arch': order.arch, 'version': loaded.manifest.version})}"
        file = f"{order.arch}-v{loaded.manifest.version}-seed{form['seed']}.png"
        size = (0, 0) if order.text else measure_grid(order.count, order.across, order.scale)
        kind = "described_text" if order.text else "described_digit" if order.digit is not None else "described"
        described = visit.strings["script"][kind].format(**asked, name=visit.strings["archs"][order.arch]["name"])
    except ValidationError as error:
        problems = [_explain(item, visit.strings) for item in error.errors(include_url=False)]
    except UnknownVersionError as error:  # there is none at all
        problems = [visit.say_none(form["arch"], error)]
    choices = list_choices(generators, visit.strings)
    texts = KEYED if get_call(request.scope).key else CODE
    data = {
        "code": texts,
        "versions": choices,
        "seeds": SEEDS,
        "n": DEFAULT_N,
        "between_digits": BETWEEN_DIGITS.pattern,
        "labels": visit.list_labels("draw", form),
    }
    return visit.render(
        "draw", data, status=422 if problems else 200,
        archs=ARCHS, order=form, versions=choices, problems=problems,
        picture=picture, file=file, size=size, described=described,
        link=picture.replace("generate", "./"), replay=replay,
        code={kind: text.replace("{address}", f"{request.base_url}{picture}") for kind, text in texts.items()},
        bounds={"n": MAX_N, "text": MAX_TEXT, "seed": seeds.MAX_SEED},
    )  # fmt: skip


def list_choices(generators: Generators, strings: Strings) -> dict[str, list[dict[str, Any]]]:
    """Architecture → its newest usable versions, as a menu shows them."""
    return {arch: _list_choices(generators, arch, strings) for arch in ARCHS}


def _list_choices(generators: Generators, arch: str, strings: Strings) -> list[dict[str, Any]]:
    usable = [entry for entry in generators.entries if entry.arch == arch and entry.is_usable and entry.manifest]
    return [_describe(entry, strings) for entry in usable[::-1][:MAX_CHOICES]]


def _describe(entry: Entry, strings: Strings) -> dict[str, Any]:
    assert entry.manifest
    said = entry.manifest
    text: str = strings["draw"]["choice"].format(version=said.version, recipe=said.recipe_name, epochs=said.epochs)
    if entry.is_default:
        text = strings["draw"]["choice_best"].format(choice=text)
    return {"version": entry.version, "label": text, "recipe": said.recipe_name}


def _explain(item: Any, strings: Strings) -> str:
    """A mistake in the form, as a sentence."""
    name = str(item["loc"][0]) if item["loc"] else "query"
    label = name_field(strings["draw"], name)
    sentence, bound = SENTENCES.get(item["type"], ("not_so", ""))
    text: str = strings["script"][sentence]
    return text.format(field=label, bound=item.get("ctx", {}).get(bound), detail=item["msg"])
