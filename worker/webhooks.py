"""What a client asks to be told of a job's end, and how far the telling is. ``app/webhooks.py`` does it.

The form is that of Standard Webhooks: https://www.standardwebhooks.com
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv6Address
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

MAX_URL = 2_048  # characters

_NAME = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?"
URL_PATTERN = rf"^https?://({_NAME}|\[[0-9A-Fa-f:.]+\])(:[0-9]{{1,5}})?(/[A-Za-z0-9._~:/?@!$&'()*+,;=%-]*)?$"

_FOUR = "[A-Za-z0-9+/]{4}"  # characters of base64 are three bytes
_ONE, _TWO = "[A-Za-z0-9+/]{2}==", "[A-Za-z0-9+/]{3}="  # bytes at the end
_SECRET = rf"^whsec_(({_FOUR}){{8,20}}({_ONE}|{_TWO})?|({_FOUR}){{21}}({_ONE})?)$"


def _check_url(url: str) -> str:
    try:
        if not re.fullmatch(URL_PATTERN, url) or urlsplit(url).port == 0:  # above 65535 it raises ValueError, too
            raise ValueError
        if "[" in url:
            IPv6Address(urlsplit(url).hostname or "")
    except ValueError:
        text = "should be an https URL in ASCII, without user and fragment, with a port of 1 to 65535 if any"
        raise PydanticCustomError("webhook_url", text, {"form": "https://host:port/path?query"}) from None
    return url


def _check_secret(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(_SECRET, secret.get_secret_value()):
        bound = {"min_bytes": 24, "max_bytes": 64}
        raise PydanticCustomError("webhook_secret", "should be whsec_ and the base64 of 24 to 64 random bytes", bound)
    return secret


class Webhook(BaseModel):
    """Who is told when the job has ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, AfterValidator(_check_url)] = Field(
        max_length=MAX_URL,
        json_schema_extra={"pattern": URL_PATTERN},
        description="where to POST; a public https address, unless the service allows others",
    )
    secret: Annotated[SecretStr, AfterValidator(_check_secret)] = Field(
        json_schema_extra={"pattern": _SECRET},
        description="whsec_ and the base64 of 24 to 64 random bytes, which sign each delivery; no answer shows them",
    )


class DeliveryState(StrEnum):
    """waiting → delivered | gave_up."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    GAVE_UP = "gave_up"


class Delivery(BaseModel):
    """How far the webhook of a job is. It has no secret."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    url: str
    """Who is told when the job has ended."""
    state: DeliveryState = DeliveryState.WAITING
    """waiting (for the end of the job, or for a try) → delivered or gave_up."""
    tries: int = 0
    """How often the service has begun to send it."""
    error: str | None = None
    """Why the last try that failed did so."""


_PREFIX = "webhook_"  # of its fields in the record of a job


def list_fields(webhook: Webhook) -> dict[str, str]:
    """What the record of a job keeps of a webhook."""
    return {f"{_PREFIX}url": webhook.url, f"{_PREFIX}secret": webhook.secret.get_secret_value()}


def read_webhook(record: Mapping[str, str]) -> tuple[Delivery, SecretStr]:
    """The webhook of a record that has one that waits."""
    return Delivery.model_validate(nest_fields(record)["webhook"]), SecretStr(record.get(f"{_PREFIX}secret", ""))


def nest_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its fields of a webhook as one, ``webhook``, and without the secret."""
    rest = {name: value for name, value in record.items() if not name.startswith(_PREFIX)}
    found = {name.removeprefix(_PREFIX): value for name, value in record.items() if name.startswith(_PREFIX)}
    found.pop("secret", None)
    return {**rest, "webhook": found} if found else rest
