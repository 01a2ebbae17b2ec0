"""How fast is training with one thread, with two, and with as many as it chooses: alone, and beside a busy process?

In each round every combination runs once, in a process of its own with the priority of a job. Prints the
medians in images a second. "of best" is the chosen number's share of the better of one and two threads
alone; "of alone" is what is left of its own speed beside the other process.

    .venv/bin/python benchmarks/threads.py --rounds 3
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from worker.linux import yield_cores
from worker.recipes import RECIPES
from worker.tasks import NICENESS

SECONDS = 4.0  # of training, after the first steps
WARM_UP_STEPS = 4
CHOSEN = 0  # in place of a number of threads
BUSY = "while True: pass"


def train(arch: str, recipe_name: str, number: int) -> None:
    """Train for ``SECONDS`` in this process; print the images a second and the number of threads."""
    import torch

    from models import mnist
    from worker import threads, training
    from worker.settings import Settings

    yield_cores(NICENESS)
    recipe, images = RECIPES[recipe_name][arch], mnist.load(Settings().data_dir)
    number = number or threads.choose(recipe, images)
    times: list[float] = []
    training.train(
        recipe=recipe,
        images=images,
        seed=0,
        device=torch.device("cpu"),
        on_progress=lambda progress: times.append(time.perf_counter()),
        should_stop=lambda: len(times) > WARM_UP_STEPS + 1 and times[-1] - times[WARM_UP_STEPS] > SECONDS,
        threads=number,
    )
    times = times[WARM_UP_STEPS:]
    print((len(times) - 1) * recipe.images_per_step / (times[-1] - times[0]), number)


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Another process that never waits."""
    other = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
    try:
        yield
    finally:
        other.kill()
        other.wait()


def measure(arch: str, recipe: str, number: int) -> tuple[float, int]:
    done = subprocess.run(
        [sys.executable, __file__, "--train", arch, recipe, str(number)],
        env={"GOMP_SPINCOUNT": "10000", **os.environ},  # as digits does
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
    )
    speed, used = done.stdout.split()
    return float(speed), int(used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        arch, recipe, number = arguments.train
        train(arch, recipe, int(number))
        return
    rows = [(arch, recipe) for recipe in RECIPES for arch in RECIPES[recipe]]
    found: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
    for _ in range(arguments.rounds):
        for arch, recipe in rows:
            for number in (1, 2, CHOSEN):
                found.setdefault((arch, recipe, f"alone {number}"), []).append(measure(arch, recipe, number))
            with busy():
                found.setdefault((arch, recipe, "beside"), []).append(measure(arch, recipe, CHOSEN))
    print(
        f"{'arch':9}{'recipe':8}{'one':>8}{'two':>8}{'chosen':>8}{'threads':>9}{'of best':>9}"
        f"{'beside':>8}{'threads':>9}{'of alone':>10}"
    )
    for arch, recipe in rows:
        one, two, chosen, beside = (
            statistics.median(speed for speed, _ in found[arch, recipe, name])
            for name in ("alone 1", "alone 2", f"alone {CHOSEN}", "beside")
        )
        used, used_beside = (
            "/".join(str(number) for number in sorted({number for _, number in found[arch, recipe, name]}))
            for name in (f"alone {CHOSEN}", "beside")
        )
        print(
            f"{arch:9}{recipe:8}{one:8,.0f}{two:8,.0f}{chosen:8,.0f}{used:>9}{chosen / max(one, two):9.0%}"
            f"{beside:8,.0f}{used_beside:>9}{beside / chosen:10.0%}"
        )


if __name__ == "__main__":
    main()
