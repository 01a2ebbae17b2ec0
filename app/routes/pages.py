"""The other views of the page: compare, train, watch, morph.

Every address in a view is relative, so it works behind a prefix. Scripts ask the API as any client does; the list
of jobs works without scripts.
"""

import random
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlencode

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from redis.exceptions import RedisError

from app import comparison
from app.dependencies import GeneratorsDep, JobQueue, ResourcesDep
from app.entries import UnknownVersionError
from app.errors import UnavailableError
from app.routes.drawing import DEFAULT_ARCH
from app.views import Visit
from models import classifier, seeds
from models.archs import ARCHS
from models.seed_index import SEEDS
from worker.jobs import MAX_EPOCHS, Job, JobStore
from worker.recipes import DEFAULT_RECIPE, RECIPES

LISTED = 100  # jobs
COMPARED = 16  # digits of each picture

router = APIRouter(include_in_schema=False)

T = TypeVar("T")


@router.get("/compare")
async def show_compare(request: Request, generators: GeneratorsDep) -> HTMLResponse:
    """Compare: pictures from the same seeds, facts, and the blind test."""
    visit = Visit(request)
    columns = await anyio.to_thread.run_sync(comparison.gather, generators)
    recipes = list(dict.fromkeys(recipe for found in columns.values() for recipe in found))
    versions = {
        arch: {recipe: facts.manifest.version for recipe, facts in found.items()} for arch, found in columns.items()
    }
    return visit.render(
        "compare", {"versions": versions},
        columns=columns, recipes=recipes, metrics=comparison.METRICS, floors=classifier.facts().floors,
        parameters=comparison.count_parameters(), colab=comparison.COLAB_SECONDS, n=COMPARED,
        seed=visit.read_number("seed", seeds.find_last_first(COMPARED), 0),
        other_seed=random.randrange(10_000),
    )  # fmt: skip


@router.get("/training")
async def show_training(request: Request, resources: ResourcesDep) -> HTMLResponse:
    """Train: the form and the jobs."""
    visit = Visit(request)
    jobs, problem = await _ask_queue(resources.job_queue, lambda store: store.list_newest(LISTED), list[Job]())
    choices = {arch: {name: rows[arch].epochs for name, rows in RECIPES.items() if arch in rows} for arch in ARCHS}
    form = {"arch": DEFAULT_ARCH, "recipe": DEFAULT_RECIPE, "epochs": "", "seed": "", "measure_every": ""}
    form |= {name: value for name, value in visit.query.items() if name in form}
    return visit.render(
        "training", {"recipes": choices, "default": DEFAULT_RECIPE},
        jobs=jobs, problem=problem, archs=ARCHS, recipes=RECIPES, order=form,
        epochs=choices[DEFAULT_ARCH][DEFAULT_RECIPE], bounds={"epochs": MAX_EPOCHS, "seed": seeds.MAX_SEED},
    )  # fmt: skip


@router.get("/watch")
async def show_watch(request: Request, resources: ResourcesDep) -> HTMLResponse:
    """Watch a job, or replay a version: ``job``, or ``arch`` and ``version``."""
    visit = Visit(request)
    strings = visit.strings
    asked = {name: visit.query.get(name, "") for name in ("job", "arch", "version")}
    job, problem = None, ""
    if asked["job"]:
        job, problem = await _ask_queue(resources.job_queue, lambda store: store.get(asked["job"]), None)
        if not job and not problem:
            return visit.render("problem", {}, status=404, problem=strings["script"]["unknown_job"])
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
            return visit.render("problem", {}, status=404, problem=sentence)
        arch, version, source = entry.arch, entry.version, f"models/{entry.arch}/{entry.version}"
        heading = strings["watch"]["version"].format(name=strings["archs"][arch]["name"], version=version)
    data = {"job": asked["job"], "source": source}
    return visit.render(
        "watch", data,
        source=source, heading=heading, arch=arch, version=version, job=job, problem=problem,
    )  # fmt: skip


@router.get("/morph")
async def show_morph(request: Request, generators: GeneratorsDep) -> HTMLResponse:
    """Morph: from one digit to another."""
    visit = Visit(request)
    arch = visit.query.get("arch", DEFAULT_ARCH)
    arch = arch if arch in ARCHS else DEFAULT_ARCH
    ends = {name: visit.read_number(name, seeds.MAX_SEED, random.randrange(SEEDS)) for name in ("from", "to")}
    version, query, problem = visit.query.get("version", ""), "", ""
    try:
        loaded, error = await generators.find_or_best(arch, version or None)
        query = urlencode({"arch": arch, **ends, "version": loaded.manifest.version})
        if error:
            version, problem = "", visit.strings["draw"]["instead"].format(detail=error)
    except UnknownVersionError as none:  # there is none at all
        problem = str(none)
    return visit.render(
        "morph", {"labels": visit.list_labels("morph", ends)},
        archs=ARCHS, arch=arch, version=version, ends=ends, query=query, problem=problem,
        bounds={"seed": seeds.MAX_SEED},
    )  # fmt: skip


async def _ask_queue(queue: JobQueue | None, call: Callable[[JobStore], T], otherwise: T) -> tuple[T, str]:
    """The answer of the queue, or ``otherwise`` and the name of the sentence that says why."""
    if queue is None:
        return otherwise, "redis_missing"
    try:
        return await queue.ask(call, queue.jobs), ""
    except (RedisError, UnavailableError):
        return otherwise, "redis_away"
