"""The engine against the machine, and the service against the engine.

Prints:

1. For one thread, the speed of large float32 matrix products with torch's BLAS and with oneDNN.
2. For one thread, each architecture and each n: the time of a pass and of the network itself, and the
   share of those speeds that the pass reaches, counted in the network's operations.
3. In turns, the requests/s (n = 16) of engine and encoding alone, with one process per core and no HTTP,
   and of the service under wrk with 32 connections on the same cores.
4. The time per image in requests of 16 and of 1,024 images.

    .venv/bin/python benchmarks/serving/engine.py --rounds 5
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import argparse
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from compare import CONTENDERS, load, started
from torch.utils.flop_counter import FlopCounterMode

from app.entries import LoadedVersion
from app.generators import Generators
from app.memory import keep_freed_memory
from app.rendering import Encoder
from models import sampling, versions
from models.archs import ARCHS
from models.inference import BATCH

N = 16
PEERS = Path()  # not needed: only this service is started


def seconds_of(call: Callable[[], object], rounds: int) -> float:
    """The median seconds of one call, over ``rounds`` measurements of about 50 ms each."""
    call()
    began = time.perf_counter()
    call()
    repeats = max(1, int(0.05 / (time.perf_counter() - began)))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        times.append((time.perf_counter() - began) / repeats)
    return statistics.median(times)


def product_speeds(rounds: int, size: int = 1024) -> dict[str, float]:
    """GFLOP/s of products of ``size`` × ``size`` matrices."""
    a, b, out = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    packed = torch.ops.mkldnn._reorder_linear_weight(b, size)
    calls = {
        "BLAS": lambda: torch.mm(a, b, out=out),
        "oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""),
    }
    return {name: 2 * size**3 / seconds_of(call, rounds) / 1e9 for name, call in calls.items()}


def load_version(arch: str) -> LoadedVersion:
    generators = Generators(Path("/nowhere"), torch.device("cpu"))
    generators.refresh()
    return generators.get(arch)


@torch.inference_mode()
def draw_plainly(G: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    return sampling.to_uint8(G(z))


def draw_and_encode(
    seconds: float, ready: "multiprocessing.synchronize.Barrier", counts: "multiprocessing.Queue[int]"
) -> None:
    """Work as an engine thread does for requests of 16 images: two requests per pass, one encoded answer each."""
    keep_freed_memory()
    torch.set_num_threads(1)
    version = load_version("dcgan")
    requests = 0
    ready.wait()
    began = time.perf_counter()
    for seed in itertools.count(step=BATCH):
        images = version.draw(range(seed, seed + BATCH))
        for start in range(0, BATCH, N):
            seeds = range(seed + start, seed + start + N)
            Encoder("image/png", version.manifest, seeds)(images[start : start + N])
            requests += 1
        if time.perf_counter() - began > seconds:
            break
    counts.put(requests)


def engine_alone(seconds: float) -> float:
    """The requests/s of engine and encoding, on all cores together."""
    spawn = multiprocessing.get_context("spawn")
    cores = os.cpu_count() or 1
    ready, counts = spawn.Barrier(cores), spawn.Queue()
    processes = [spawn.Process(target=draw_and_encode, args=(seconds, ready, counts)) for _ in range(cores)]
    for process in processes:
        process.start()
    total = sum(counts.get() for _ in processes)
    for process in processes:
        process.join()
    return total / seconds


def service(n: int, clients: int, seconds: int) -> float:
    """The requests/s of the service."""
    with started(CONTENDERS[0], PEERS) as (_, url):
        load(CONTENDERS[0], url, n, clients, 1)
        good, _, _, _, took, *_ = load(CONTENDERS[0], url, n, clients, seconds)
        return good / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="per measurement of requests")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    peaks = product_speeds(arguments.rounds)
    print("GFLOP/s of a product: " + ", ".join(f"{name} {speed:.0f}" for name, speed in peaks.items()))
    header = "".join(f"{'% of ' + name:>13}" for name in peaks)
    print(f"{'arch':8}{'n':>5}{'pass µs':>10}{'network µs':>12}{'GFLOP/s':>10}{header}")
    for arch, n in itertools.product(ARCHS, (1, 4, 16, BATCH)):
        version = load_version(arch)
        G = versions.read_generator(versions.PRETRAINED / arch / "1")[1]
        z = sampling.make_latents(range(n), version.manifest.latent_shape, version.manifest.latents)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            G(z)
        ours = seconds_of(partial(version.inference, z), arguments.rounds)
        network = seconds_of(partial(draw_plainly, G, z), arguments.rounds)
        speed = counter.get_total_flops() / ours / 1e9
        shares = "".join(f"{100 * speed / peak:13.0f}" for peak in peaks.values())
        print(f"{arch:8}{n:5}{ours * 1e6:10.0f}{network * 1e6:12.0f}{speed:10.0f}{shares}")
    pairs = [(engine_alone(arguments.seconds), service(N, 32, arguments.seconds)) for _ in range(arguments.rounds)]
    alone, served = (statistics.median(values) for values in zip(*pairs, strict=True))
    share = statistics.median(b / a for a, b in pairs)
    print(f"n = {N}, requests/s: engine and encoding alone {alone:.0f}, the service {served:.0f}: {share:.0%}")
    times = {n: [] for n in (N, 1024)}
    for _, n in itertools.product(range(arguments.rounds), times):
        times[n].append(1e6 / service(n, 32, arguments.seconds) / n)
    print("µs per image at 32 clients: " + ", ".join(f"n = {n}: {statistics.median(t):.1f}" for n, t in times.items()))


if __name__ == "__main__":
    main()
