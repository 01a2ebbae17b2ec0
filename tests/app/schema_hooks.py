"""Rules of the API that OpenAPI cannot say, for schemathesis (``SCHEMATHESIS_HOOKS``).

A case against them is valid by the schema, and yet the right answer is a 422.
"""

import re
import uuid
from typing import Any

import schemathesis
from schemathesis import Case, HookContext

from app.datasets import MAX_PER_CLASS
from app.orders import VALUES
from app.rendering import FORMATS, measure_grid
from app.routes.comparisons import MAX_ROWS
from models import seeds
from models.seed_index import SEEDS
from worker.webhooks import MAX_URL, URL_PATTERN

MAX_PIXELS = FORMATS["image/png"].max_pixels


@schemathesis.hook
def filter_case(context: HookContext, case: Case[Any]) -> bool:
    query = case.query if isinstance(case.query, dict) else {}
    if case.operation.path == "/models/{arch}/default" and isinstance(case.body, dict):
        return not isinstance(case.body.get("version"), int | float)  # few of them are the number of a version
    if isinstance(case.body, dict) and case.body.get("recipe") == "logistic":  # of wgan only
        return case.body.get("arch") not in {"vanilla", "dcgan"}
    try:
        n, seed, scale = (int(query.get(name, default)) for name, default in (("n", 16), ("seed", 0), ("scale", 1)))
        columns = int(query["columns"]) if "columns" in query else None
        height, width = measure_grid(n, columns, scale)
        first, last = map(int, str(query.get("seeds", "0-0")).split("-"))
    except (ValueError, TypeError, ZeroDivisionError):  # a case of wrong input
        return True
    if not first <= last < first + MAX_ROWS or last > seeds.MAX_SEED:
        return False
    asked = [name for name in VALUES if name in query]
    if asked:
        fits = len(asked) == 1 and seed < SEEDS and not ("digits" in query and "n" in query)
        return fits and "text" not in query and "spacing" not in query  # a line may be too large for its scale
    fits = "min_confidence" not in query and "spacing" not in query
    return fits and seed <= seeds.find_last_first(n) and height * width <= MAX_PIXELS


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """A key belongs to one body. A data set that can be made is a small one, so that there is time for others.

    No stranger gets a webhook, and no private address is refused, as ``https?://10.0.0.1`` would be.
    """
    if case.operation.path == "/datasets" and isinstance(case.body, dict):
        per_class = case.body.get("per_class", 1_000)
        if isinstance(per_class, int | float) and 1 <= per_class <= MAX_PER_CLASS:
            case.body["per_class"] = 1
    webhook = case.body.get("webhook") if isinstance(case.body, dict) else None
    url = webhook.get("url") if isinstance(webhook, dict) else None
    if isinstance(webhook, dict) and isinstance(url, str) and len(url) <= MAX_URL and re.fullmatch(URL_PATTERN, url):
        webhook["url"] = "https://receiver.invalid/"
    key = case.headers.get("idempotency-key") if case.headers else None
    if key and 0 < len(key) <= 200:
        case.headers["idempotency-key"] = str(uuid.uuid4())
