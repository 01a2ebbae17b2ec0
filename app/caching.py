"""What clients may keep of an answer: its tag, and for how long it is fresh (RFC 9110, 8.8.3 and 13.1.2)."""

import hashlib
import platform
from importlib.metadata import version

import torch

from app.generators import LATEST

# What can change the last bits of a picture, apart from what was asked for.
_BUILD = (
    *(version(name) for name in ("digits", "torch", "pillow", "matplotlib")),
    platform.machine(),
    torch.backends.cpu.get_cpu_capability(),
)


def make_etag(*facts: object) -> str:
    """A tag of everything that the bytes of an answer depend on: of ``facts``, and of this build."""
    return f'"{hashlib.sha256(repr((*_BUILD, *facts)).encode()).hexdigest()[:32]}"'


def matches(if_none_match: str, etag: str) -> bool:
    """Whether ``If-None-Match`` names the tag: it is a list of weak or strong tags, or ``*`` (RFC 9110, 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]


def choose_freshness(asked: str | None) -> str:
    """``Cache-Control`` of an answer that depends on the version that was ``asked`` for.

    Never ``immutable``: another release of torch or Pillow may round a pixel or pack it otherwise.
    """
    may_change = asked in (None, LATEST)  # another version may be chosen soon
    return "public, max-age=60" if may_change else "public, max-age=86400"
