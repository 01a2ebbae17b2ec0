"""Versions for tests: real files of untrained networks, made in milliseconds."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import publishing, versions
from models.archs import ARCHS
from models.manifest import Manifest, Origin

SHIPPED = {arch: versions.list_numbers(versions.PRETRAINED / arch) for arch in ARCHS}
NEXT = {arch: numbers[-1] + 1 for arch, numbers in SHIPPED.items()}  # the number of the first version of one's own


def origin(arch: str = "dcgan", **changes: Any) -> Origin:
    facts: dict[str, Any] = {
        "arch": arch,
        "latent_shape": ARCHS[arch].latent_shape,
        "latents": "uniform",
        "recipe": {"name": "test"},
        "seed": 0,
        "epochs": 1,
        "dataset": "none",
        "dataset_sha256": "",
        "device": "cpu",
        "threads": 1,
        "torch": torch.__version__,
        "wall_seconds": 0.0,
        "created_at": datetime.now(UTC),
        "command": "none",
    }
    return Origin(**{**facts, **changes})


def publish(
    model_dir: Path,
    arch: str = "dcgan",
    *,
    weights_seed: int = 0,
    scratch: Path | None = None,
    samples: Tensor | None = None,
    history: Sequence[dict[str, Any]] = ({"epoch": 1},),
    **changes: Any,
) -> Manifest:
    """A version of untrained networks; its folder is ``<model_dir>/<arch>/<manifest.version>``."""
    with torch.random.fork_rng():
        torch.manual_seed(weights_seed)
        G, D = ARCHS[arch].generator(), ARCHS[arch].discriminator(True)
    return publishing.publish(
        model_dir,
        origin(arch, **changes),
        generator=G.state_dict(),
        discriminator=D.state_dict(),
        samples=torch.zeros(1, 64, 28, 28, dtype=torch.uint8) if samples is None else samples,
        history=list(history),
        scratch=scratch,
    )
