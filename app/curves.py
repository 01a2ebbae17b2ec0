"""The curves of a training as SVG. Matplotlib is loaded when the first ones are drawn.

For one thread: that of :class:`app.studio.Studio`.
"""

import gc
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from app.entries import NotNowError

DRAWN = {"epoch", "d_loss", "g_loss", "d_real", "d_fake"}  # what a record must have


def keep_complete(history: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of epochs that have all that curves show, as numbers."""
    return [record for record in history if all(isinstance(record.get(name), int | float) for name in DRAWN)]


def draw_curves(title: str, recipe: Mapping[str, Any], history: list[dict[str, Any]]) -> bytes:
    """Losses, D's output and the earth mover's distance, by epoch. ``history`` is not empty, and complete."""
    _load_charts()
    from app import charts

    return charts.save_svg(charts.draw_learning([charts.Learning(title, recipe, history)]))


@cache
def _load_charts() -> None:
    """Import matplotlib: it takes a second and 50 MB, and most processes draw no curves.

    Raises:
        NotNowError: it finds no folder in which it may keep its list of fonts.
    """
    try:
        from app import charts  # noqa: F401
    except OSError as error:
        raise NotNowError(f"no curves can be drawn: {error}; MPLCONFIGDIR can name a folder") from error
    gc.collect()
    gc.freeze()  # as in app/main.py: each collection that searched it blocked all answers for 0.2 s
