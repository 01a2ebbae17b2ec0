"""The facts by which the page compares versions: what they are made of, what they cost, and how good they are."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from app.curves import keep_complete
from app.entries import Entry
from app.generators import Generators
from models import classifier, versions
from models.archs import ARCHS
from models.manifest import InvalidVersionError, Manifest

# The metrics that are shown, of models.metrics.measure → their decimal places.
METRICS = {"fid": 2, "precision": 3, "recall": 3, "class_balance": 3, "emd": 3}

# How to choose the best value. The earth mover's distance has none: below that of real images, less is not better.
BEST: Mapping[str, Callable[[Iterable[float]], float]] = {
    "fid": min,
    "precision": max,
    "recall": max,
    "class_balance": max,
}

# Published training times on a Colab GPU: recipe "book", 100 epochs.
COLAB_SECONDS = {"vanilla": 22 * 60, "dcgan": 36 * 60 + 17, "wgan": 2 * 3600 + 50 * 60 + 43}


@dataclass(frozen=True)
class Facts:
    """What is said of one version."""

    manifest: Manifest
    estimate: float | None  # of the earth mover's distance, by the critic; None: its D is none, or has no record


def gather(generators: Generators) -> dict[str, dict[str, Facts]]:
    """Architecture → recipe → the facts of a version: of the default one, and of the best one of ``book``."""
    return {arch: _gather_of(generators, arch) for arch in ARCHS}


def _gather_of(generators: Generators, arch: str) -> dict[str, Facts]:
    default = next((entry for entry in generators.entries if entry.arch == arch and entry.is_default), None)
    found: dict[str, Facts] = {}
    for entry in (default, generators.find_best(arch, "book")):
        if entry and entry.manifest:
            said = entry.manifest
            estimate = _estimate(entry) if said.recipe.get("objective") == "wasserstein" else None
            found.setdefault(said.recipe_name, Facts(said, estimate))
    return found


def _estimate(entry: Entry) -> float | None:
    """½ (D(real) − D(fake)) of the last epoch: a critic sees pixels in −1…1, where distances are twice as long."""
    try:
        history = keep_complete(versions.read_history(entry.folder))
    except (InvalidVersionError, OSError, MemoryError):
        return None
    return (history[-1]["d_real"] - history[-1]["d_fake"]) / 2 if history else None


def choose_best(columns: Mapping[str, Mapping[str, Facts]]) -> dict[str, float | None]:
    """Metric → its best value among the facts of :func:`gather`; None if there is none."""
    manifests = [facts.manifest for found in columns.values() for facts in found.values()]
    measured = [said.metrics for said in manifests if said.is_comparable(classifier.sha256())]
    values = {name: [metrics[name] for metrics in measured if name in metrics] for name in METRICS}
    return {name: BEST[name](values[name]) if name in BEST and values[name] else None for name in METRICS}


@cache
def count_parameters() -> Mapping[str, tuple[int, int]]:
    """Architecture → how many weights its generator and its discriminator have."""
    pairs = {name: (arch.generator(), arch.discriminator(False)) for name, arch in ARCHS.items()}
    return {
        name: (sum(p.numel() for p in G.parameters()), sum(p.numel() for p in D.parameters()))
        for name, (G, D) in pairs.items()
    }
