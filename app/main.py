"""The application: assembles the parts and owns every resource. Importing it starts nothing.

digits serve
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import errors
from app.dependencies import Resources, Training
from app.engine import Engine
from app.generators import Generators
from app.routes import generate, health, jobs, models
from app.settings import ApiSettings
from models import device
from worker.jobs import JobStore
from worker.queue import Publisher, connect, connect_to_events
from worker.reconciler import Reconciler

REFRESH_SECONDS = 1.0  # between two looks at the model directory
MAX_BODY_BYTES = 64 * 1024


def create_app(settings: ApiSettings) -> FastAPI:
    """The API over one model directory and, where one is configured, one Redis.

    Raises:
        ValueError: the device of the settings does not exist here.
    """
    where = device.resolve(settings.device)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        generators = Generators(settings.model_dir, where)
        await asyncio.to_thread(generators.refresh)
        training = _training(settings)
        reconciler = Reconciler(settings.redis_url.get_secret_value(), settings) if settings.redis_url else None
        engine = Engine(settings.engine_threads, settings.batch_wait_ms / 1e3)
        app.state.resources = Resources(generators, engine, settings.deadline_seconds, training)
        gc.collect()
        gc.freeze()  # what is loaded stays; to look through it again took 0.1 s, in which nobody was answered
        watcher = asyncio.create_task(_keep_fresh(generators))
        try:
            yield
        finally:
            watcher.cancel()
            engine.close()
            if training and reconciler:
                reconciler.close()
                training.publisher.close()
                await training.events.aclose()

    app = FastAPI(
        title="digits",
        summary="Handwritten digits on demand, drawn by GANs, and training of the GANs that draw them.",
        version=version("digits"),
        lifespan=lifespan,
    )
    errors.install(app)
    for part in (generate, models, jobs, health):
        app.include_router(part.router)
    return app


def create_service(settings: ApiSettings) -> ASGIApp:
    """What ``digits serve`` runs: the API, what goes around it for speed, and the bound of bodies.

    Raises:
        ValueError: as :func:`create_app`.
    """
    return BodyLimit(generate.ShortCut(create_app(settings)))


class BodyLimit:
    """Refuses bodies over ``MAX_BODY_BYTES``, by their announced length or as they arrive."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > MAX_BODY_BYTES:
                await errors.http_error(_too_large())(scope, receive, send)
                return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise _too_large()
            return message

        await self._app(scope, counted, send)


def _too_large() -> errors.TooLarge:
    return errors.TooLarge(f"the body has more than {MAX_BODY_BYTES} bytes", field="body", bound={"le": MAX_BODY_BYTES})


def _training(settings: ApiSettings) -> Training | None:
    if settings.redis_url is None:
        return None
    url = settings.redis_url.get_secret_value()
    return Training(JobStore(connect(url)), Publisher(url), connect_to_events(url))


async def _keep_fresh(generators: Generators) -> None:
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        await generators.look_again()
