"""The facts by which the page compares versions: what they are made of, what they cost, and how good they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from app.generators import Entry
from models import versions
from models.archs import ARCHS
from models.manifest import InvalidVersionError, Manifest

METRICS = ("fid", "precision", "recall", "class_balance", "emd")  # those that are shown, of models.metrics.measure

# Published training times on a Colab GPU: recipe "book", 100 epochs.
COLAB_SECONDS = {"vanilla": 22 * 60, "dcgan": 36 * 60 + 17, "wgan": 2 * 3600 + 50 * 60 + 43}


@dataclass(frozen=True)
class Facts:
    """What is said of one version."""

    manifest: Manifest
    estimate: float | None  # of the earth mover's distance, by the critic; None: its D is none, or has no record


def gather(entry: Entry) -> Facts | None:
    """The facts of a version; None if it has no manifest. Reads its history."""
    said = entry.manifest
    if said is None:
        return None
    return Facts(said, _estimate(entry) if said.recipe.get("objective") == "wasserstein" else None)


def _estimate(entry: Entry) -> float | None:
    """½ (D(real) − D(fake)) of the last epoch: a critic sees pixels in −1…1, where distances are twice as long."""
    try:
        history = versions.read_history(entry.folder)
    except (InvalidVersionError, OSError):
        return None
    return (history[-1]["d_real"] - history[-1]["d_fake"]) / 2 if history else None


@cache
def count_parameters() -> Mapping[str, tuple[int, int]]:
    """Architecture → how many weights its generator and its discriminator have."""
    pairs = {name: (arch.generator(), arch.discriminator(False)) for name, arch in ARCHS.items()}
    return {
        name: (sum(p.numel() for p in G.parameters()), sum(p.numel() for p in D.parameters()))
        for name, (G, D) in pairs.items()
    }
