"""The other views of the page: compare, train, watch, morph.

Every address in a view is relative, so it works behind a prefix. Scripts ask the API as any client does; the list
of jobs works without scripts.
"""

import random
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlencode

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from redis.exceptions import RedisError

from app import comparison
from app.calls import get_call
from app.dependencies import GeneratorsDep, JobQueue, ResourcesDep
from app.entries import UnknownVersionError
from app.errors import UnavailableError
from app.keys import Scope
from app.middleware.keys import ask_for_key
from app.routes.drawing import DEFAULT_ARCH, list_choices
from app.views import Visit
from models import classifier, seeds
from models.archs import ARCHS
from models.seed_index import SEEDS
from worker.jobs import MAX_EPOCHS, Job, JobStore
from worker.recipes import DEFAULT_RECIPE, RECIPES

LISTED = 100  # jobs
COMPARED = 16  # digits of each picture
FIRST_DIGITS = {"from": 3, "to": 8}  # of a morph that nobody has chosen yet
SHOWN_ID = 8  # letters of a job's id in a heading

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
        columns=columns, recipes=recipes, metrics=comparison.METRICS, best=comparison.choose_best(columns),
        floors=classifier.facts().floors,
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
    form["arch"] = form["arch"] if form["arch"] in ARCHS else DEFAULT_ARCH
    form["recipe"] = form["recipe"] if form["recipe"] in choices[form["arch"]] else DEFAULT_RECIPE
    return visit.render(
        "training",
        {"recipes": choices, "default": DEFAULT_RECIPE, "labels": visit.list_labels("training", form)},
        jobs=jobs, problem=problem, archs=ARCHS, recipes=RECIPES, order=form,
        epochs=choices[form["arch"]][form["recipe"]], bounds={"epochs": MAX_EPOCHS, "seed": seeds.MAX_SEED},
    )  # fmt: skip


@router.get("/watch")
async def show_watch(request: Request, resources: ResourcesDep) -> Response:
    """Watch a job, or replay a version: ``job``, or ``arch`` and ``version``."""
    visit = Visit(request)
    strings = visit.strings
    asked = {name: visit.query.get(name, "") for name in ("job", "arch", "version")}
    job, manifest, problem = None, None, ""
    if asked["job"]:
        key = get_call(request.scope).key
        if key and not key.may(Scope.TRAIN):
            return ask_for_key(request.scope, Scope.TRAIN)
        job, problem = await _ask_queue(resources.job_queue, lambda store: store.get(asked["job"]), None)
        if not job and not problem:
            return visit.render_problem(strings["script"]["unknown_job"], HTTPStatus.NOT_FOUND)
        arch, version = (job.arch, job.version) if job else ("", None)
        source = f"jobs/{asked['job']}"
        heading = strings["watch"]["job"].format(
            name=strings["archs"].get(arch, {"name": "?"})["name"], id=asked["job"][:SHOWN_ID]
        )
    else:
        try:
            entry = await resources.generators.find_entry(asked["arch"], asked["version"])
        except UnknownVersionError:
            name = strings["archs"].get(asked["arch"], {}).get("name")
            kind = "no_version" if name and asked["version"] else "no_target"
            sentence = strings["problem"][kind].format(name=name, version=asked["version"])
            return visit.render_problem(sentence, HTTPStatus.NOT_FOUND)
        manifest = entry.manifest
        arch, version, source = entry.arch, entry.version, f"models/{entry.arch}/{entry.version}"
        heading = strings["watch"]["version"].format(name=strings["archs"][arch]["name"], version=version)
    floors = (manifest and manifest.floors) or classifier.facts().floors
    data = {"job": asked["job"], "source": source, "epochs": job.epochs if job else 0, "floors": floors}
    return visit.render(
        "watch", data,
        source=source, heading=heading, arch=arch, version=version, job=job, manifest=manifest, problem=problem,
    )  # fmt: skip


@router.get("/morph")
async def show_morph(request: Request, generators: GeneratorsDep) -> HTMLResponse:
    """Morph: from one digit to another."""
    visit = Visit(request)
    arch = visit.query.get("arch", DEFAULT_ARCH)
    arch = arch if arch in ARCHS else DEFAULT_ARCH
    ends = {name: visit.read_number(name, seeds.MAX_SEED, random.randrange(SEEDS)) for name in ("from", "to")}
    version, query, problem = visit.query.get("version", ""), "", ""
    versions = list_choices(generators, visit.strings)
    try:
        loaded, error = await generators.find_or_best(arch, version or None)
        query = urlencode({"arch": arch, **ends, "version": loaded.manifest.version})
        if error:
            problem, version = visit.say_instead(arch, version, error), ""
    except UnknownVersionError as none:  # there is none at all
        problem = visit.say_none(arch, none)
    return visit.render(
        "morph", {"labels": visit.list_labels("morph", ends), "versions": versions},
        archs=ARCHS, arch=arch, version=version, versions=versions, ends=ends, query=query, problem=problem,
        digits={} if visit.query.keys() & ends.keys() else FIRST_DIGITS,
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
