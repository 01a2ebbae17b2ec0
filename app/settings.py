"""Settings of the API, from the environment (``DIGITS_*``), read once, in the entry points only."""

import contextlib
import logging
import os
import re
from functools import lru_cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from worker.jobs import MAX_QUEUED
from worker.linux import count_cores
from worker.settings import PREFIX, Settings

logger = logging.getLogger(__name__)

MAX_PROCESSES = 64
IN_MEMORY = 32  # versions, unless set; each takes about 0.4 MB

URL = "DIGITS_URL"  # of the service that a command asks
KEY = "DIGITS_KEY"  # that it sends

_PROCESSES, _PROCESSES_BEFORE = "DIGITS_API_PROCESSES", "DIGITS_WORKERS"  # the second is its old name


MAPPED = "::ffff:"  # before an address of IPv4 if a socket of IPv6 takes both


@lru_cache
def is_loopback(host: str) -> bool:
    """Whether this name or address, in lower case, is of this machine alone."""
    try:
        return ip_address(host.removeprefix(MAPPED)).is_loopback
    except ValueError:
        return host == "localhost"


class ApiSettings(Settings):
    """Where the API listens, whom it answers, and how it draws."""

    model_config = SettingsConfigDict(populate_by_name=True)  # api_processes has two other names

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    api_processes: int | None = Field(  # unset: see processes
        None, ge=1, le=MAX_PROCESSES, validation_alias=AliasChoices(_PROCESSES, _PROCESSES_BEFORE)
    )
    max_queued: Annotated[int, Field(ge=1, le=100_000)] = MAX_QUEUED  # jobs
    versions_in_memory: Annotated[int, Field(ge=1, le=100_000)] = IN_MEMORY
    batch_wait_ms: Annotated[float, Field(ge=0, le=100)] = 1.0
    root_path: str = ""  # the prefix that a proxy adds, as /digits
    keys_file: Path | None = None  # unset: whoever reaches the service may do everything
    open: bool = False  # without keys, listen on other addresses than loopback's, too
    cors_origins: Annotated[frozenset[str], NoDecode] = frozenset()  # sites whose pages may use the service
    trusted_proxies: Annotated[frozenset[str], NoDecode] = frozenset()  # addresses whose X-Forwarded-… headers count
    limit_requests: Annotated[int | None, Field(ge=1, le=1_000_000)] = None  # for pictures, per client and second
    limit_images: Annotated[int | None, Field(ge=1, le=1_000_000_000)] = None  # per client and minute
    limit_jobs: Annotated[int | None, Field(ge=1, le=100_000)] = None  # queued and running, per client
    access_log: bool = False
    allowed_hosts: Annotated[frozenset[str], NoDecode] = frozenset()  # more names of this service, separated by commas
    webhook_private: bool = False  # webhooks may go to private addresses, and over http
    deadline_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    header_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0  # from a request's first byte to its last

    @field_validator("host")
    @classmethod
    def _take_brackets(cls, host: str) -> str:
        return host.removeprefix("[").removesuffix("]")

    @field_validator("root_path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        parts = path.strip("/")
        if not re.fullmatch(r"[\w.~/-]*", parts, re.ASCII):
            raise ValueError("should be a path, as /digits")
        return f"/{parts}" if parts else ""

    @field_validator("allowed_hosts", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, names: Any) -> Any:
        return (
            [name.strip().rstrip("./").lower() for name in names.split(",") if name.strip()]
            if isinstance(names, str)
            else names
        )

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, names: frozenset[str]) -> frozenset[str]:
        for name in names:
            with contextlib.suppress(ValueError):
                ip_address(name)
                continue
            if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
                raise ValueError(f"should be names without scheme and port, as digits.example.org; not {name}")
        return names

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: frozenset[str]) -> frozenset[str]:
        for origin in origins:
            if not re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?", origin, re.ASCII):
                raise ValueError(f"should be origins, as https://example.org:8443; not {origin}")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, networks: frozenset[str]) -> frozenset[str]:
        for network in networks:
            try:
                ip_network(network)
            except ValueError:
                raise ValueError(f"should be addresses or networks, as 10.0.0.0/8; not {network}") from None
        return networks

    def model_post_init(self, context: Any, /) -> None:
        if os.environ.get(_PROCESSES_BEFORE) and not os.environ.get(_PROCESSES):
            logger.warning("%s is now called %s; the old name still works", _PROCESSES_BEFORE, _PROCESSES)

    @classmethod
    def list_names(cls) -> list[str]:
        """The names of all settings in the environment."""
        fields = [f"{PREFIX}{name.upper()}" for name in cls.model_fields]
        return [*fields, _PROCESSES_BEFORE, URL, KEY]

    @property
    def has_proxy(self) -> bool:
        """Whether the settings are those of a service behind a proxy."""
        return bool(self.root_path or self.trusted_proxies or self.allowed_hosts)

    @property
    def proxy_addresses(self) -> list[str]:
        """The trusted proxies, also as a socket of IPv6 names those of IPv4."""
        networks = map(ip_network, sorted(self.trusted_proxies))
        mapped = [f"{MAPPED}{one.network_address}/{96 + one.prefixlen}" for one in networks if one.version == 4]
        return [*sorted(self.trusted_proxies), *mapped]

    @property
    def processes(self) -> int:
        """The number of API processes: as set, else one with a GPU, else one per core."""
        gpu = self.device == "cuda" or (self.device == "auto" and Path("/dev/nvidiactl").exists())
        return self.api_processes or (1 if gpu else min(count_cores(), MAX_PROCESSES))

    @property
    def engine_threads(self) -> int:
        """The engine threads of each process, so that all processes together use every core."""
        return -(-count_cores() // self.processes)
