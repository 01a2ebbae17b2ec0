"""``digits up``, ``digits serve`` and ``digits worker``: commands that run until they are told to end."""

from typing import Annotated

import typer

from app.cli.console import fail
from app.settings import MAX_PROCESSES, ApiSettings
from worker.settings import Settings

commands = typer.Typer()


@commands.command(epilog="Example: `DIGITS_PORT=9000 digits up`")
def up() -> None:
    """Run everything on this machine: Valkey, a worker and the API on port 8000. Ctrl-C ends it.

    With DIGITS_REDIS_URL set, no Valkey is started.
    """
    from app.processes import up, valkey

    try:
        up.up(ApiSettings())
    except (up.UpError, valkey.ValkeyError, OSError) as error:
        fail(str(error))


@commands.command(epilog="Example: `digits serve --host 0.0.0.0 --port 9000 --processes 4`")
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: DIGITS_HOST, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: DIGITS_PORT, or 8000.")] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", "--workers", min=1, max=MAX_PROCESSES, help="Default: DIGITS_API_PROCESSES, or one per core."
        ),
    ] = None,
) -> None:
    """Run only the API. `/generate` needs nothing else; `/train` needs DIGITS_REDIS_URL and a worker."""
    from app.processes import serving
    from models.device import UnavailableDeviceError

    told = {"host": host, "port": port, "api_processes": processes}
    settings = ApiSettings().model_copy(update={name: value for name, value in told.items() if value is not None})
    try:
        serving.serve(settings)
    except UnavailableDeviceError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")


@commands.command(epilog="Example: `DIGITS_REDIS_URL=redis://gpu-host:6379/0 digits worker`")
def worker() -> None:
    """Run a worker: one training job at a time, from the queue at DIGITS_REDIS_URL."""
    from worker import tasks

    settings = Settings()
    if settings.redis_url is None:
        fail("there is no queue: set DIGITS_REDIS_URL, or run everything at once with `digits up`")
    tasks.serve(settings.require_redis())
