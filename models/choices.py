"""What people have chosen among the versions of an architecture: which one is pinned, which shipped ones are hidden.

Both are names in the model directory, so all processes and hosts that share it see them:

    <arch>/default.json       {"version": 3}: the pinned one answers if a request names no version
    <arch>/.hidden/<version>  an empty folder: the shipped version with this number is left out
"""

import contextlib
import json
from pathlib import Path

from models import files, publishing
from models.versions import HIDDEN, list_numbers, list_shipped

PIN = "default.json"

_MAX_BYTES = 1_000


class InvalidPinError(Exception):
    """The file of a pin is damaged; pin a version again, or take the pin away."""


def read_pin(model_dir: Path, arch: str) -> int | None:
    """The number of the pinned version, which may not exist any more; None: none is pinned.

    Raises:
        InvalidPinError: the file is damaged.
        OSError: it cannot be read just now.
    """
    path = model_dir / arch / PIN
    try:
        said = json.loads(files.read(path, _MAX_BYTES))
        version = said["version"]
        if type(version) is not int or version < 1:
            raise ValueError(f"version is {version!r}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidPinError(f"{path} cannot be read: {error}") from error
    return version


def pin(model_dir: Path, arch: str, version: int | None) -> None:
    """Pin a version; None takes the pin away.

    Raises:
        OSError: the model directory cannot be written.
    """
    path = model_dir / arch / PIN
    if version is not None:
        publishing.require_writable(model_dir, arch)
        files.replace(path, json.dumps({"version": version}).encode() + b"\n")
    elif path.parent.is_dir():
        path.unlink(missing_ok=True)
        files.sync(path.parent)


def list_hidden(model_dir: Path, arch: str) -> list[int]:
    """The numbers of the shipped versions that are left out because somebody has said so."""
    hidden = list_numbers(model_dir / arch / HIDDEN)
    return [number for number in list_shipped(model_dir, arch) if number in hidden]


def hide(model_dir: Path, arch: str, version: int) -> None:
    """Leave a shipped version out from now on.

    Raises:
        OSError: the model directory cannot be written.
    """
    publishing.require_writable(model_dir, arch)
    hidden = model_dir / arch / HIDDEN
    files.make_folder(hidden, exist_ok=True)
    files.make_folder(hidden / str(version), exist_ok=True)
    files.sync(hidden)


def show(model_dir: Path, arch: str, version: int) -> None:
    """Let a hidden version be seen again.

    Raises:
        OSError: the model directory cannot be written.
    """
    hidden = model_dir / arch / HIDDEN
    with contextlib.suppress(FileNotFoundError):
        (hidden / str(version)).rmdir()
        files.sync(hidden)
