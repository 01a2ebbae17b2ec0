"""Settings from the environment (``DIGITS_*``), read once, in the entry points only."""

import ssl
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.redis_url import normalise

MAX_TRAINING_THREADS = 256

PREFIX = "DIGITS_"

_ROOT = Path(__file__).parents[1]  # the checkout, or site-packages

# Where jobs, versions and reports are kept unless the environment says otherwise.
STATE_DIR = _ROOT / "var" if (_ROOT / "pyproject.toml").is_file() else platformdirs.user_data_path("digits")


class LogSettings(BaseSettings):
    """What a process must know before it can log that another setting is wrong."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    log: Literal["text", "json"] = "text"


class Settings(LogSettings):
    """The settings that worker and API share. The URL may hold a password, so it is never printed."""

    redis_url: SecretStr | None = None  # unset: `digits up` starts a Valkey of its own
    redis_ca: Path | None = None  # certificates of the authority that has signed that of a rediss:// server
    model_dir: Path = STATE_DIR / "models"
    state_dir: Path = STATE_DIR
    data_dir: Path = _ROOT / "models" / "data" / "mnist"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    training_threads: int | None = Field(None, ge=1, le=MAX_TRAINING_THREADS)  # unset: chosen when a run begins

    def require_redis(self) -> str:
        """The URL with its password, for redis-py and kombu. Call this only if a URL is set."""
        assert self.redis_url is not None
        return normalise(self.redis_url.get_secret_value(), self.redis_ca)

    @field_validator("redis_ca")
    @classmethod
    def _check_ca(cls, path: Path | None) -> Path | None:
        if path:
            try:
                ssl.create_default_context(cafile=path)
            except OSError as error:  # ssl.SSLError is one
                raise ValueError(f"should be a file of certificates in PEM: {error.strerror or error}") from None
        return path

    @field_validator("redis_url")
    @classmethod
    def _check_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url:
            normalise(url.get_secret_value())
        return url
