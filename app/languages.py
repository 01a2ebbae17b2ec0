"""The languages of the page: one file of strings each, ``app/web/strings/<code>.toml``.

A new language is one more file with the same keys; ``tests/app/test_languages.py`` compares them.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

STRINGS = Path(__file__).parent / "web" / "strings"

DEFAULT = "en"


@cache
def load() -> Mapping[str, Mapping[str, Any]]:
    """Code → strings, by view and name. A string may have fields in braces, as {epoch}."""
    return {path.stem: tomllib.loads(path.read_text("utf-8")) for path in sorted(STRINGS.glob("*.toml"))}


def choose(accept_language: str, *preferred: str | None) -> str:
    """The code of the first preferred language that there is, else of the best one of ``Accept-Language``.

    The header has weights (RFC 9110, 12.5.4); of a tag as ja-JP only the first part counts.
    """
    weights = {}
    for part in accept_language.split(","):
        tag, *parameters = (word.strip().lower() for word in part.split(";"))
        weights[tag.partition("-")[0]] = max(map(_read_weight, parameters), default=1.0)
    wanted = sorted((tag for tag in weights if weights[tag] > 0), key=lambda tag: -weights[tag])
    return next((code for code in (*preferred, *wanted) if code and code in load()), DEFAULT)


def _read_weight(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    try:
        return float(value) if name == "q" else 1.0
    except ValueError:
        return 0.0
