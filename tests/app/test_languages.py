"""The strings of the page: every language has all of them, and the right one is chosen."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from app import comparison, languages, views
from app.keys import Scope
from app.routes import drawing, login, pages
from app.static import FOLDER
from app.views import TEMPLATES
from worker.jobs import JobState
from worker.recipes import RECIPES, DOutput


def flatten(strings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in strings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


ALL = {code: dict(flatten(strings)) for code, strings in languages.load().items()}
SCRIPTS = "\n".join(path.read_text() for path in FOLDER.glob("*.js"))
HTML = "\n".join(path.read_text() for path in TEMPLATES.glob("*.html"))
SOURCES = "\n".join(
    [SCRIPTS, HTML, *(inspect.getsource(module) for module in (pages, drawing, login, views, comparison))]
)


@pytest.mark.parametrize("code", ALL)
def test_a_language_has_the_keys_of_the_others_and_their_fields(code: str) -> None:
    default = ALL[languages.DEFAULT]
    assert ALL[code].keys() == default.keys()
    for name, text in ALL[code].items():
        assert text.strip() == text != "", name
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", default[name])), name


def test_there_are_english_and_japanese() -> None:
    assert ALL.keys() >= {"en", "ja"}
    same = {name for name in ALL["en"] if ALL["en"][name] == ALL["ja"][name]}
    assert len(same) < 0.1 * len(ALL["en"]), same


def test_every_string_is_used_and_no_other() -> None:
    theirs = {name.removeprefix("script.") for name in ALL["en"] if name.startswith("script.")}
    assert set(re.findall(r'\bt\("(\w+)"', SCRIPTS)) <= theirs
    named = {name.rpartition(".")[2] for name in ALL["en"]}
    computed = {*JobState, *RECIPES, *Scope, *(f"verdict_{kind}" for kind in DOutput)}  # no source has these names
    assert {
        name
        for name in named - computed
        if not re.search(rf"\b{name.removesuffix('_what').removesuffix('_name')}\b", SOURCES)
    } == set()


@pytest.mark.parametrize(
    ("header", "preferred", "chosen"),
    [
        ("", (), "en"),
        ("ja", (), "ja"),
        ("ja-JP,ja;q=0.9,en;q=0.8", (), "ja"),
        ("en;q=0.8, JA;q=0.9", (), "ja"),
        ("fr, de;q=0.9", (), "en"),
        ("ja;q=0", (), "en"),
        ("ja;q=nonsense, en", (), "en"),
        (";;,,=;q", (), "en"),
        ("ja", ("en",), "en"),
        ("en", (None, "ja"), "ja"),
        ("ja", ("fr", None), "ja"),
    ],
)
def test_the_choice(header: str, preferred: tuple[str | None, ...], chosen: str) -> None:
    assert languages.choose(header, *preferred) == chosen
