"""What may be pinned, hidden and removed, for the API and the command line alike.

One change of an architecture is made at a time, on all hosts whose file system has locks: two who remove the last
two versions at once do not both succeed. Every change is seen by ``generators`` when it is made, and by other
processes within a second.
"""

import contextlib
from collections.abc import Iterator

from app.entries import Entry, Source, UnknownVersionError
from app.generators import Generators
from models import choices, files, publishing, removal, versions


class NeededError(Exception):
    """The version is pinned, or the last one that can draw; pin or train another one first."""


class UnwritableError(Exception):
    """The model directory cannot be written by this process; see the reason."""


class ShippedError(Exception):
    """The version comes with the code and cannot be removed; hide it."""


def pin(generators: Generators, arch: str, version: int | None) -> None:
    """Make a version the default one, whatever is better; None: the best one is the default again.

    Raises:
        UnknownVersionError: there is no such version, or it is rejected.
        UnwritableError: the pin cannot be written.
    """
    with _changing(generators, arch):
        if version is not None:
            _find(generators, arch, version).require_usable()
        choices.pin(generators.model_dir, arch, version)


def remove(generators: Generators, arch: str, version: int) -> None:
    """Remove a version of the model directory. Its number is never given again.

    Raises:
        UnknownVersionError: there is no such version.
        ShippedError: it comes with the code.
        NeededError: it is pinned, or the last one that can draw.
        UnwritableError: the model directory cannot be written.
    """
    with _changing(generators, arch):
        entry = _find(generators, arch, version)
        if entry.source is Source.SHIPPED:
            raise ShippedError(f"version {version} of {arch} comes with the code: it can be hidden, not removed")
        _require_unneeded(generators, entry)
        removal.remove(generators.model_dir, arch, version)


def hide(generators: Generators, arch: str, version: int) -> None:
    """Leave a shipped version out. One that is hidden already stays so.

    Raises:
        UnknownVersionError: no shipped version has this number.
        NeededError: it is pinned, or the last one that can draw.
        UnwritableError: the model directory cannot be written.
    """
    with _changing(generators, arch):
        _require_shipped(generators, arch, version)
        shown = [entry for entry in generators.entries if (entry.arch, entry.version) == (arch, version)]
        for entry in shown:
            _require_unneeded(generators, entry)
        choices.hide(generators.model_dir, arch, version)


def remove_or_hide(generators: Generators, arch: str, version: int) -> bool:
    """:func:`remove` a version of the model directory, :func:`hide` a shipped one. Returns whether it is removed.

    Raises:
        UnknownVersionError: there is no such version, or it is hidden already.
        NeededError, UnwritableError: as both.
    """
    try:
        remove(generators, arch, version)
    except ShippedError:
        hide(generators, arch, version)
        return False
    return True


def show(generators: Generators, arch: str, version: int) -> None:
    """Let a hidden version be seen again. One that is not hidden stays as it is.

    Raises:
        UnknownVersionError: no shipped version has this number.
        UnwritableError: the model directory cannot be written.
    """
    with _changing(generators, arch):
        _require_shipped(generators, arch, version)
        choices.show(generators.model_dir, arch, version)


@contextlib.contextmanager
def _changing(generators: Generators, arch: str) -> Iterator[None]:
    """Look at the directory before a change, and after it; keep others out in between."""
    try:
        publishing.require_writable(generators.model_dir, arch)
        with files.lock(generators.model_dir / arch):
            generators.refresh()
            yield
        generators.refresh()
    except OSError as error:
        raise UnwritableError(f"{generators.model_dir} cannot be written: {error.strerror}") from error


def _find(generators: Generators, arch: str, version: int) -> Entry:
    return generators.get_entry(arch, str(version))


def _require_shipped(generators: Generators, arch: str, version: int) -> None:
    """Go on only if this number means a shipped version, hidden or not."""
    if version in versions.list_shipped(generators.model_dir, arch):
        return
    raise UnknownVersionError(f"no version {version} of {arch} comes with this release")


def _require_unneeded(generators: Generators, entry: Entry) -> None:
    name = f"version {entry.version} of {entry.arch}"
    if entry.is_pinned:
        raise NeededError(f"{name} is pinned: pin another one first, or take the pin away")
    usable = [other for other in generators.entries if other.arch == entry.arch and other.is_usable]
    if usable == [entry]:
        raise NeededError(f"{name} is the last one that can draw: train another one first, or show a hidden one")
