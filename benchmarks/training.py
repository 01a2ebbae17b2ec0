"""Milliseconds per training step, for every recipe and architecture, measured in turns with a plain loop.

Also the floating-point operations of a step, and the share that they reach of the machine's speed in
matrix products. Both are measured.

GOMP_SPINCOUNT=10000 .venv/bin/python benchmarks/training.py --rounds 5
"""

import argparse
import dataclasses
import itertools
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import plain_loop
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from models import mnist
from models.archs import ARCHS
from worker import training
from worker.recipes import RECIPES
from worker.settings import Settings

STEPS = {"vanilla": 200, "dcgan": 24, "wgan": 8}  # per round; a few seconds each
WARM_UP_STEPS = 4
PLAIN = "plain"  # the recipe "book" in the plain loop


def step_seconds(recipe_name: str, arch: str, images: torch.Tensor, where: torch.device, steps: int) -> list[float]:
    recipe = dataclasses.replace(RECIPES[recipe_name][arch], epochs=1)
    times = [time.perf_counter()]
    training.train(
        recipe=recipe,
        images=images[: recipe.images_per_step * (steps + 1)],
        seed=0,
        device=where,
        on_progress=lambda progress: times.append(time.perf_counter()),
    )
    return [end - start for start, end in itertools.pairwise(times)][:steps]  # without the end of the epoch


class Operations(TorchDispatchMode):
    """Counts with torch's own formulas; torch's ``FlopCounterMode`` cannot follow a gradient of a gradient."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def operations(run: Callable[[int], object]) -> float:
    """Floating-point operations of a step, averaged over four steps: some penalties come every fourth step."""
    totals = []
    for steps in (2, 6):
        with Operations() as counted:
            run(steps)
        totals.append(counted.total)
    return (totals[1] - totals[0]) / 4


def peak() -> float:
    """Floating-point operations per second of a large float32 matrix product."""
    matrix = torch.randn(2048, 2048)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    settings = Settings()
    where = torch.device("cpu")  # as for the plain loop and the matrix product
    images = mnist.load(settings.data_dir)

    def run(name: str, arch: str, steps: int) -> list[float]:
        if name == PLAIN:
            return plain_loop.step_seconds(arch, images, steps)
        return step_seconds(name, arch, images, where, steps)

    names = [PLAIN, *RECIPES]
    found: dict[tuple[str, str], list[float]] = {
        (arch, name): [] for arch in ARCHS for name in names if name == PLAIN or arch in RECIPES[name]
    }
    peaks = []
    for _ in range(rounds):
        peaks.append(peak())
        for (arch, name), figures in found.items():
            figures.append(statistics.median(run(name, arch, STEPS[arch] + WARM_UP_STEPS)[WARM_UP_STEPS:]) * 1e3)
    fastest = statistics.median(peaks)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {rounds} rounds")
    print(f"matrix product: {fastest / 1e9:.0f} GFLOP/s")
    print(
        f"{'arch':9}{'recipe':9}{'images':>7}{'ms/step':>9}{'min':>8}{'max':>8}{'× plain':>9}{'GFLOP':>8}{'of peak':>9}"
    )
    for (arch, name), figures in found.items():
        middle = statistics.median(figures)
        batch = RECIPES["book" if name == PLAIN else name][arch].images_per_step
        faster = statistics.median(found[arch, PLAIN]) / middle if name == "book" else float("nan")
        flops = operations(lambda steps, name=name, arch=arch: run(name, arch, steps))  # type: ignore[misc]
        share = flops / (middle / 1e3) / fastest
        print(
            f"{arch:9}{name:9}{batch:7}{middle:9.2f}{min(figures):8.2f}{max(figures):8.2f}"
            f"{faster:9.2f}{flops / 1e9:8.3f}{share:9.0%}"
        )


if __name__ == "__main__":
    main()
