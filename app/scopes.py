"""What each route asks of a key, which routes the limits count, and where a browser keeps a key.

A route without a row needs ``admin``, and a test fails.
"""

from collections.abc import Mapping

from app.keys import Scope

COOKIE = "digits_key"  # of a browser that has logged in

# The name of a route → the scope that its callers need; None: everyone may call it.
SCOPES: Mapping[str, Scope | None] = {
    # drawing
    "post_generate": Scope.DRAW,
    "get_generate": Scope.DRAW,
    "make_dataset": Scope.DRAW,
    "list_models": Scope.DRAW,
    "list_versions": Scope.DRAW,
    "get_version": Scope.DRAW,
    "get_version_samples": Scope.DRAW,
    "get_evolution": Scope.DRAW,
    "get_version_curves": Scope.DRAW,
    "get_history": Scope.DRAW,
    "get_morph": Scope.DRAW,
    "get_morph_frames": Scope.DRAW,
    "get_neighbours": Scope.DRAW,
    "compare": Scope.DRAW,
    "get_real": Scope.DRAW,
    # training
    "train": Scope.TRAIN,
    "list_jobs": Scope.TRAIN,
    "get_job": Scope.TRAIN,
    "cancel_job": Scope.TRAIN,
    "follow_job": Scope.TRAIN,
    "get_job_samples": Scope.TRAIN,
    "get_job_curves": Scope.TRAIN,
    # upkeep
    "get_default": Scope.DRAW,
    "put_default": Scope.ADMIN,
    "delete_version": Scope.ADMIN,
    "show_version": Scope.ADMIN,
    # the page
    "show_draw": Scope.DRAW,
    "show_compare": Scope.DRAW,
    "show_morph": Scope.DRAW,
    "show_training": Scope.TRAIN,
    "show_watch": Scope.DRAW,  # of a job, the route asks for train, too
    "show_login": None,
    "login": None,
    "logout": None,
    "get_static": None,
    # operating
    "get_metrics": Scope.ADMIN,
    # what others need to find their way
    "show_docs": None,
    "get_file": None,
    "openapi": None,
    "livez": None,
    "readyz": None,
}
_PICTURES_OF_JOBS = frozenset({"get_job_samples", "get_job_curves"})
# Routes whose calls the limits count as requests: all that draw, and all pictures.
COUNTED = frozenset({name for name, scope in SCOPES.items() if scope is Scope.DRAW} | _PICTURES_OF_JOBS)
LOCAL = frozenset({"get_metrics"})  # routes that a process of the same machine may call without a key


def find_scope(route: str) -> Scope | None:
    """The scope that the callers of a route need; None if there is no route: its answer is a 404."""
    return SCOPES.get(route, Scope.ADMIN) if route else None
