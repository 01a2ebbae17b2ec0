"""Settings of the API, from the environment (``DIGITS_*``), read once, in the entry points only."""

from typing import Annotated

from pydantic import Field

from worker.settings import Settings


class ApiSettings(Settings):
    """Where the API listens; on this machine alone unless told otherwise, since there are no keys yet."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
