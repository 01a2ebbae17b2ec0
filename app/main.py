"""The application: every resource, every route, and the layers around all routes. Importing it starts nothing.

Every request passes through :data:`LAYERS`, outermost first, to its route. A new layer is one row
there; a new set of routes is one row of :data:`ROUTES`.

    digits serve
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.types import ASGIApp

from app.dependencies import JobQueue, Resources
from app.engine import Engine
from app.generators import Generators
from app.middleware.body_limit import BodyLimit
from app.middleware.problems import Problems
from app.routes import generate, health, jobs, models
from app.settings import ApiSettings
from models import device
from worker.broker import Publisher
from worker.connections import connect, connect_to_events
from worker.jobs import JobStore
from worker.reconciler import Reconciler

REFRESH_SECONDS = 1.0  # between two reads of the model directory

# Around every route, outermost first.
LAYERS = (
    Problems,
    BodyLimit,
    AsyncExitStackMiddleware,  # which FastAPI's own routes need
)

ROUTES = (generate, models, jobs, health)  # the busiest first


class Application(FastAPI):
    """FastAPI with our layers in place of its own, so that one handler answers every error."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for layer in reversed(LAYERS):
            app = layer(app)
        return app


def create_app(settings: ApiSettings) -> Application:
    """The API over one model directory and, if one is configured, one Redis.

    Raises:
        UnavailableDeviceError: the device of the settings does not exist here.
    """
    where = device.resolve(settings.device)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        generators = Generators(settings.model_dir, where)
        await asyncio.to_thread(generators.refresh)
        engine = Engine(settings.engine_threads, settings.batch_wait_ms / 1e3)
        async with _open_job_queue(settings) as job_queue:
            app.state.resources = Resources(generators, engine, settings.deadline_seconds, job_queue)
            gc.collect()
            gc.freeze()  # what is loaded stays: each collection that searched it blocked all answers for 0.1 s
            engine.start()
            watcher = asyncio.create_task(_keep_fresh(generators))
            try:
                yield
            finally:
                watcher.cancel()
                engine.close()

    app = Application(
        title="digits",
        summary="Handwritten digits on demand, drawn by GANs, and training of the GANs that draw them.",
        version=version("digits"),
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it looks for a receiver per request
    )
    # Before the pages of FastAPI, and not by include_router(), which would search twice per request.
    app.router.routes[:0] = [route for part in ROUTES for route in part.router.routes]
    return app


@contextlib.asynccontextmanager
async def _open_job_queue(settings: ApiSettings) -> AsyncIterator[JobQueue | None]:
    """The connections to the worker, and a reconciler beside them; None if no Redis is configured."""
    if settings.redis_url is None:
        yield None
        return
    url = settings.require_redis()
    queue = JobQueue(JobStore(connect(url)), Publisher(url), connect_to_events(url))
    reconciler = Reconciler(url, settings.model_dir)
    reconciler.start()
    try:
        yield queue
    finally:
        reconciler.close()
        queue.publisher.close()
        await queue.events.aclose()


async def _keep_fresh(generators: Generators) -> None:
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        await generators.look_again()
