"""What nobody needs any more in a model directory: old versions, and what dead processes have left.

An old version is one that was made here, is not among the newest of its architecture, and is neither pinned nor the
best: of all, or of its recipe, since the page compares the best version of each recipe. A damaged version is never
an old one: it may be half copied, or of a later release.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from app import upkeep
from app.entries import Entry, Source
from app.generators import Generators
from models import removal
from models.archs import ARCHS
from worker import saved


@dataclass(frozen=True)
class Leftover:
    """Something that nobody needs."""

    what: str
    path: Path
    remove: Callable[[], None]

    @property
    def bytes(self) -> int:
        """How much room it takes."""
        paths = [self.path, *self.path.rglob("*")]
        return sum(path.lstat().st_size for path in paths if path.is_file())


def find(generators: Generators, keep: int, has_ended: Callable[[str], bool | None] | None) -> list[Leftover]:
    """All leftovers. Of each architecture, the ``keep`` newest versions stay.

    ``has_ended`` as for :func:`worker.saved.find_unneeded`; None: nobody knows, so the states of all jobs stay.
    """
    model_dir = generators.model_dir
    return [
        *(_make_version(generators, entry) for arch in ARCHS for entry in _find_old(generators, arch, keep)),
        *_list("states of a job", saved.find_unneeded(model_dir, has_ended) if has_ended else ()),
        *_list("unfinished", removal.find_unfinished(model_dir)),
        *_list("seed index", removal.find_needless_indexes(model_dir)),
    ]


def has_states(model_dir: Path) -> bool:
    """Whether there are saved states of any job."""
    return any((model_dir / saved.RUNS).glob("*"))


def _find_old(generators: Generators, arch: str, keep: int) -> list[Entry]:
    usable = [entry for entry in generators.entries if entry.arch == arch and entry.is_usable and entry.manifest]
    own = [entry for entry in usable if entry.source is not Source.SHIPPED]
    recipes = {entry.manifest.recipe_name for entry in usable if entry.manifest}
    best = [generators.find_best(arch, recipe) for recipe in recipes]
    kept = {entry.version for entry in [*own[-keep:], *best] if entry}
    return [entry for entry in own if not (entry.is_default or entry.is_pinned or entry.version in kept)]


def _make_version(generators: Generators, entry: Entry) -> Leftover:
    def remove() -> None:
        upkeep.remove(generators, entry.arch, entry.version)

    return Leftover("old version", entry.folder, remove)


def _list(what: str, paths: Iterable[Path]) -> list[Leftover]:
    return [Leftover(what, path, _make_remover(path)) for path in paths]


def _make_remover(path: Path) -> Callable[[], None]:
    def remove() -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    return remove
