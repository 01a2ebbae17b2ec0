"""``digits up``, ``digits serve`` and ``digits worker``: commands that run until they are told to end."""

from typing import Annotated

import typer

from app.cli.console import fail
from app.keys import KeysError
from app.settings import MAX_PROCESSES, ApiSettings
from worker.settings import Settings

commands = typer.Typer()


HostOption = Annotated[str | None, typer.Option(help="Address to listen on. Default: DIGITS_HOST, or 127.0.0.1.")]
PortOption = Annotated[int | None, typer.Option(min=1, max=65535, help="Default: DIGITS_PORT, or 8000.")]


@commands.command(epilog="Example: `digits up --port 9000`")
def up(host: HostOption = None, port: PortOption = None) -> None:
    """Run everything on this machine: Valkey, a worker and the API on port 8000. Ctrl-C ends it.

    With DIGITS_REDIS_URL set, no Valkey is started.
    """
    from app.processes import up, valkey
    from app.processes.child import StartError
    from app.processes.serving import AddressError

    try:
        up.up(_make_settings(host=host, port=port))
    except (up.UpError, valkey.ValkeyError, AddressError, KeysError, StartError, OSError) as error:
        fail(str(error))


@commands.command(epilog="Example: `digits serve --host 0.0.0.0 --port 9000 --processes 4`")
def serve(
    host: HostOption = None,
    port: PortOption = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", "--workers", min=1, max=MAX_PROCESSES, help="Default: DIGITS_API_PROCESSES, or one per core."
        ),
    ] = None,
) -> None:
    """Run only the API. `/generate` needs nothing else; `/train` needs DIGITS_REDIS_URL and a worker."""
    from app.processes import serving
    from app.processes.child import StartError
    from app.processes.metrics_folder import FolderError
    from models.device import UnavailableDeviceError

    try:
        serving.serve(_make_settings(host=host, port=port, api_processes=processes))
    except (serving.AddressError, FolderError, KeysError, StartError, UnavailableDeviceError) as error:
        fail(str(error))


@commands.command(epilog="Example: `DIGITS_REDIS_URL=redis://gpu-host:6379/0 digits worker`")
def worker() -> None:
    """Run a worker: one training job at a time, of those in the Redis at DIGITS_REDIS_URL."""
    from worker import requirements, tasks

    settings = Settings()
    if settings.redis_url is None:
        fail("a worker takes its jobs from a Redis: name it in DIGITS_REDIS_URL, or run everything with `digits up`")
    try:
        requirements.require_all(settings)
    except requirements.UnmetError as error:
        fail(str(error))
    tasks.serve(settings.require_redis())


def _make_settings(**told: str | int | None) -> ApiSettings:
    """The settings of the environment, but for those that the command line names."""
    return ApiSettings(**{name: value for name, value in told.items() if value is not None})  # type: ignore[arg-type]
