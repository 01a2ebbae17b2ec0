"""Milliseconds a training step of 64 images, for every recipe and architecture, alternating.

.venv/bin/python benchmarks/training.py --rounds 3
"""

import argparse
import dataclasses
import itertools
import platform
import statistics
import time

import torch

from models import device, mnist
from worker import training
from worker.recipes import RECIPES
from worker.settings import Settings

STEPS = {"vanilla": 200, "dcgan": 24, "wgan": 8}  # a round; a few seconds each
WARM_UP_STEPS = 4


def milliseconds(recipe_name: str, arch: str, images: torch.Tensor, where: torch.device) -> float:
    """The median step of one round; the first steps are left out."""
    times = [time.perf_counter()]
    training.train(
        recipe=dataclasses.replace(RECIPES[recipe_name][arch], epochs=1),
        images=images[: 64 * (STEPS[arch] + WARM_UP_STEPS)],
        seed=0,
        device=where,
        on_progress=lambda progress: times.append(time.perf_counter()),
    )
    steps = [end - start for start, end in itertools.pairwise(times)]
    return statistics.median(steps[WARM_UP_STEPS:-1]) * 1e3  # the last one is the end of the epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    settings = Settings()
    where = device.resolve(settings.device)
    images = mnist.load(settings.data_dir)
    found: dict[tuple[str, str], list[float]] = {(name, arch): [] for name in RECIPES for arch in STEPS}
    for _ in range(rounds):
        for (name, arch), figures in found.items():
            figures.append(milliseconds(name, arch, images, where))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, {rounds} rounds")
    print(f"{'recipe':8}{'arch':10}{'ms/step':>9}{'min':>9}{'max':>9}{'s/epoch':>9}")
    for (name, arch), figures in found.items():
        middle = statistics.median(figures)
        print(
            f"{name:8}{arch:10}{middle:9.1f}{min(figures):9.1f}{max(figures):9.1f}{middle * (60_000 // 64) / 1e3:9.0f}"
        )


if __name__ == "__main__":
    main()
