"""The application: every resource, every route, and the layers around all routes. Importing it starts nothing.

Every request passes through :data:`LAYERS`, outermost first, to its route. A new layer is one row
there; a new set of routes is one row of :data:`ROUTES`.

    digits serve
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import Any, NoReturn

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from app import endless, openapi
from app.addresses import Receivers
from app.datasets import Exporter
from app.dependencies import JobQueue, Resources
from app.engine import Engine
from app.generators import Generators
from app.indexes import Indexes
from app.keys import KeyRing
from app.limiter import make_limiter
from app.middleware.access_log import AccessLog
from app.middleware.body_limit import BodyLimit
from app.middleware.calls import Calls
from app.middleware.cors import make_cors
from app.middleware.hosts import Hosts
from app.middleware.keys import Keys
from app.middleware.limits import Limits
from app.middleware.methods import Methods
from app.middleware.prefix import Prefix
from app.middleware.problems import Problems
from app.middleware.routing import Routing
from app.middleware.unique_keys import UniqueKeys
from app.routes import (
    comparisons,
    datasets,
    docs,
    drawing,
    generate,
    health,
    jobs,
    learning,
    login,
    metrics,
    models,
    pages,
    progress,
    static,
    walks,
)
from app.settings import ApiSettings
from app.studio import Studio
from app.telemetry import LOOK_SECONDS, Telemetry
from app.webhooks import Courier, describe_call
from models import device
from worker.broker import Publisher
from worker.connections import connect
from worker.jobs import JobStore
from worker.reconciler import Reconciler

REFRESH_SECONDS = 1.0  # between two reads of the model directory

# Around every route, outermost first.
LAYERS: dict[str, Callable[[ASGIApp, ApiSettings], ASGIApp]] = {
    "calls": lambda app, settings: Calls(app, is_shared=bool(settings.cors_origins)),
    "access log": lambda app, settings: AccessLog(app) if settings.access_log else app,
    "cors": lambda app, settings: make_cors(app, settings.cors_origins) if settings.cors_origins else app,
    "problems": lambda app, _: Problems(app),
    "hosts": lambda app, settings: Hosts(app, settings.host.lower(), settings.allowed_hosts, settings.cors_origins),
    "prefix": lambda app, settings: Prefix(app, settings.root_path),
    "routing": lambda app, _: Routing(app),
    "keys": lambda app, settings: Keys(app, has_proxy=settings.has_proxy) if settings.keys_file else app,
    "limits": lambda app, settings: Limits(app) if settings.limit_requests or settings.limit_images else app,
    "body limit": lambda app, _: BodyLimit(app),
    "unique keys": lambda app, _: UniqueKeys(app),
    "methods": lambda app, _: Methods(app),
    "exit stack": lambda app, _: AsyncExitStackMiddleware(app),  # which FastAPI's own routes need
}

# The busiest first.
ROUTES = (
    generate,
    models,
    jobs,
    learning,
    progress,
    walks,
    comparisons,
    datasets,
    health,
    metrics,
    docs,
    drawing,
    pages,
    login,
    static,
)


class Application(FastAPI):
    """FastAPI with our layers in place of its own, so that one handler answers every error."""

    def __init__(self, settings: ApiSettings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for add in reversed(LAYERS.values()):
            app = add(app, self._settings)
        return app

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            openapi.complete(super().openapi(), asks_for_keys=self._settings.keys_file is not None)
        return super().openapi()

    async def close_streams(self) -> None:
        """End the streams of events, before the server waits for the answers that are under way."""
        if queue := self.state.resources.job_queue:
            await queue.feeds.close()

    def add_middleware(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("add a row to LAYERS in app/main.py")

    def add_exception_handler(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("add a row to _TRANSLATIONS in app/errors.py")


def create_app(settings: ApiSettings) -> Application:
    """The API over one model directory and, if one is configured, one Redis.

    Raises:
        UnavailableDeviceError: the device of the settings does not exist here.
        KeysError: the keys file cannot be used.
    """
    where = device.resolve(settings.device)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        generators = Generators(settings.model_dir, where, settings.versions_in_memory)
        await asyncio.to_thread(generators.refresh)
        indexes = Indexes(generators, settings.model_dir)
        await asyncio.to_thread(indexes.look)
        engine = Engine(settings.engine_threads, settings.batch_wait_ms / 1e3, app.state.telemetry.count_pass)
        async with contextlib.AsyncExitStack() as stack:
            job_queue = _open_job_queue(settings, stack)
            exporter = Exporter(engine, settings.deadline_seconds)
            studio = Studio(settings.data_dir)
            app.state.resources = Resources(
                generators, indexes, engine, exporter, studio, settings.deadline_seconds, job_queue
            )
            if app.state.limiter:
                stack.callback(app.state.limiter.close)
            stack.callback(indexes.close)
            indexes.start()
            gc.collect()
            gc.freeze()  # what is loaded stays: each collection that searched it blocked all answers for 0.1 s
            stack.callback(exporter.close)
            stack.callback(studio.close)
            stack.callback(app.state.telemetry.settle)
            stack.callback(engine.close)
            engine.start()
            stack.callback(endless.start("the look for versions", lambda: _keep_fresh(generators)).cancel)
            stack.callback(endless.start("the look for metrics", lambda: _keep_looking(app)).cancel)
            yield

    app = Application(
        settings,
        title="digits",
        summary="Handwritten digits on demand, drawn by GANs, and training of the GANs that draw them.",
        version=version("digits"),
        lifespan=lifespan,
        docs_url=None,  # app/routes/docs.py has it
        redoc_url=None,
        redirect_slashes=False,  # app/middleware/prefix.py does it
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it looks for a receiver per request
    )
    app.state.limiter = make_limiter(settings)
    app.state.telemetry = Telemetry()
    app.state.key_ring = KeyRing(settings.keys_file) if settings.keys_file else None
    # Before the pages of FastAPI, and not by include_router(), which would search twice per request.
    app.router.routes[:0] = [route for part in ROUTES for route in part.router.routes]
    app.webhooks.post("job.ended", operation_id="job_ended", tags=["train"])(describe_call)
    for route in app.routes:
        if isinstance(route, APIRoute):
            route.operation_id = route.name  # generated clients name their functions after it
    return app


def _open_job_queue(settings: ApiSettings, stack: contextlib.AsyncExitStack) -> JobQueue | None:
    """The connections to the worker, and a reconciler beside them, which ``stack`` closes; None without a Redis."""
    if settings.redis_url is None:
        return None
    url = settings.require_redis()
    receivers = Receivers(settings.webhook_private)
    queue = JobQueue(JobStore(connect(url)), Publisher(url), receivers, settings.max_queued, settings.limit_jobs)
    stack.callback(endless.start("the reading of events", queue.feeds.run).cancel)
    stack.callback(endless.start("the sending of webhooks", Courier(queue, receivers).run).cancel)
    stack.callback(queue.publisher.close)
    reconciler = Reconciler(url, settings.model_dir)
    stack.callback(reconciler.close)
    reconciler.start()
    return queue


async def _keep_fresh(generators: Generators) -> None:
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        await generators.look_again()


async def _keep_looking(app: FastAPI) -> None:
    found: Resources = app.state.resources
    while True:
        app.state.telemetry.look(found.engine, found.generators, found.job_queue and found.job_queue.feeds)
        await asyncio.sleep(LOOK_SECONDS)
