"""Keys of the API: who has one, and what each of them may do.

The keys file is JSON. It has the SHA-256 of each key, and no key: a key is 256 random bits, which nobody can guess
from a hash, so none of the slow hashes for passwords is needed. Must not import torch.

    digits keys add class-3b --scope draw
"""

import contextlib
import contextvars
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.audit import audit
from models import files

logger = logging.getLogger(__name__)

MAX_NAME = 64  # characters
MAX_KEYS = 10_000

_MAX_BYTES = 4 * 2**20  # of the file
_LOOK_SECONDS = 1.0  # between two looks whether the file has changed
_WARN_SECONDS = 1.0  # between two lines about keys of one address that are not good
_FORM = re.compile(r"digits_([0-9a-f]{8})_[\w-]{43}", re.ASCII)
_NOBODY = "0" * 64  # compared with if no key has the id, so that the answer takes as long


class Scope(StrEnum):
    """What a key may do."""

    DRAW = "draw"
    """Draw digits and data sets, look at versions."""
    TRAIN = "train"
    """Queue and watch jobs, cancel the own ones."""
    ADMIN = "admin"
    """Everything, versions and metrics included."""


class KeysError(Exception):
    """The keys file cannot be used; the message names it and says what to do."""


class Key(BaseModel):
    """A row of the keys file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]  # the second part of the key itself
    name: Annotated[str, Field(pattern=rf"^[A-Za-z0-9._-]{{1,{MAX_NAME}}}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_at: datetime

    def may(self, scope: Scope) -> bool:
        """Whether the key has this scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[list[Key], Field(max_length=MAX_KEYS)]


class KeyRing:
    """The keys of a file, which may change at any time.

    Raises:
        KeysError: the file cannot be read at the start. Later, the keys that were read last stay good.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_look = 0.0
        self._seen = _look(path)
        self._by_id = {key.id: key for key in read_keys(path)}
        self._warned: dict[str, float] = {}  # the addresses that lines were about, and when

    def find(self, text: str) -> Key | None:
        """The key with this text, or None."""
        if time.monotonic() >= self._next_look:
            self._look_again()
        form = _FORM.fullmatch(text)
        key = self._by_id.get(form[1]) if form else None
        is_right = hmac.compare_digest(_hash(text), key.sha256 if key else _NOBODY)
        return key if is_right else None

    def warn(self, client: str, text: str) -> None:
        """Log that a client has come with this text, which is no good key; of the text, only the id of the key."""
        now = time.monotonic()
        self._warned = {one: at for one, at in self._warned.items() if now - at < _WARN_SECONDS}
        if client not in self._warned:
            self._warned[client] = now
            form = _FORM.fullmatch(text)
            audit("wrong-key", logging.WARNING, id=form[1] if form else "none")

    def _look_again(self) -> None:
        self._next_look = time.monotonic() + _LOOK_SECONDS
        try:
            seen = _look(self._path)
            if seen == self._seen:
                return
            found = {key.id: key for key in read_keys(self._path)}
        except KeysError as error:
            logger.error("the keys that were read before stay good: %s", error)
            return
        before, self._by_id, self._seen = self._by_id, found, seen
        for event, keys in (
            ("key-added", set(found.values()) - set(before.values())),
            ("key-removed", set(before.values()) - set(found.values())),
        ):
            for key in keys:  # with no facts: the present request has not done it
                contextvars.Context().run(audit, event, name=key.name, id=key.id, scopes=_join(key))


def read_keys(path: Path) -> list[Key]:
    """All keys of a file.

    Raises:
        KeysError: it cannot be read, or is no file of keys.
    """
    try:
        return _File.model_validate_json(files.read(path, _MAX_BYTES)).keys
    except OSError as error:
        raise KeysError(f"DIGITS_KEYS_FILE: cannot read {path}: {error.strerror}; {_ADVICE}") from None
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise KeysError(f"DIGITS_KEYS_FILE: {path} is no file of keys: {where}: {problem['msg']}") from None
    except ValueError as error:
        raise KeysError(f"DIGITS_KEYS_FILE: {path} is no file of keys: {error}") from None


_ADVICE = "make one with `digits keys add NAME --scope admin`"


def add_key(path: Path, name: str, scopes: frozenset[Scope]) -> str:
    """Add a key to the file, which is made if there is none. Returns the key itself: it is nowhere else.

    Raises:
        KeysError: the file cannot be used, or has a key of that name.
        ValidationError: the name is not one.
    """
    with _changing(path) as keys:
        if any(key.name == name for key in keys):
            raise KeysError(f"there is a key {name} already: revoke it first, or choose another name")
        if len(keys) >= MAX_KEYS:
            raise KeysError(f"there are {MAX_KEYS:,} keys already: revoke some")
        number = secrets.token_hex(4)
        text = f"digits_{number}_{secrets.token_urlsafe(32)}"
        created = datetime.now(UTC).replace(microsecond=0)
        keys.append(Key(id=number, name=name, scopes=scopes, sha256=_hash(text), created_at=created))
    return text


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file. It stops being good within a second.

    Raises:
        KeysError: the file cannot be used, or has no such key.
    """
    with _changing(path) as keys:
        if not any(key.name == name for key in keys):
            names = ", ".join(key.name for key in keys[:20]) or "none"
            raise KeysError(f"there is no key {name}; there are: {names}")
        keys[:] = [key for key in keys if key.name != name]


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """The keys of the file, to be changed by one process at a time. If nothing is raised, they are written."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeysError(f"DIGITS_KEYS_FILE: cannot open {path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = read_keys(path) if path.exists() else []
        yield keys
        # It keeps its permissions, its owner and, behind a link, its place; a new one is its maker's alone.
        old = path.stat() if path.exists() else None
        mode, owner = (stat.S_IMODE(old.st_mode), (old.st_uid, old.st_gid)) if old else (0o600, None)
        files.replace(path.resolve(), _File(keys=keys).model_dump_json(indent=2).encode() + b"\n", mode, owner)
    except OSError as error:
        advice = "; run this as its owner or as root" if isinstance(error, PermissionError) else ""
        raise KeysError(f"DIGITS_KEYS_FILE: cannot write {path}: {error.strerror}{advice}") from None
    finally:
        os.close(folder)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _join(key: Key) -> str:
    return ",".join(sorted(key.scopes))


def _look(path: Path) -> tuple[int, int, int]:
    """What changes if the file does.

    Raises:
        KeysError: there is none.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise KeysError(f"DIGITS_KEYS_FILE: cannot read {path}: {error.strerror}; {_ADVICE}") from None
    if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
        raise KeysError(f"DIGITS_KEYS_FILE: {path} is no file")
    return found.st_mtime_ns, found.st_size, found.st_ino
