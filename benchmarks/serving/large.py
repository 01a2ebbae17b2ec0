"""Small requests beside large ones: do they wait, and how much memory do the large ones take?

For each format six clients ask for the largest picture that it may have, again and again; a seventh
one asks for one digit at a time. Prints the seventh's times, the memory of the API's processes
meanwhile, and 20 s later.

    .venv/bin/python benchmarks/serving/large.py --seconds 20
"""

import argparse
import gc
import threading
import time

import httpx
import numpy as np
import psutil
from compare import Memory
from endure import running

CLIENTS = 6
REST_SECONDS = 20.0

# format → scale of 1,024 digits: the largest that is not refused
LARGEST = {"image/webp": 2, "image/png": 8, "application/zip": 8, "application/json": 8}


def ask_for_large(url: str, media_type: str, until: float, sizes: list[int]) -> None:
    query = {"arch": "dcgan", "n": 1024, "scale": LARGEST[media_type]}
    with httpx.Client(timeout=120) as client:
        while time.monotonic() < until:
            answer = client.post(f"{url}/generate", params=query, headers={"Accept": media_type}).raise_for_status()
            sizes.append(len(answer.content))


def ask_for_small(url: str, until: float) -> list[float]:
    """The milliseconds of each answer."""
    times = []
    with httpx.Client(timeout=120) as client:
        while time.monotonic() < until:
            began = time.perf_counter()
            client.post(f"{url}/generate", params={"arch": "dcgan", "n": 1}).raise_for_status()
            times.append(1e3 * (time.perf_counter() - began))
            time.sleep(0.005)
    return times


def describe(times: list[float]) -> str:
    """The milliseconds of many answers in a few figures."""
    return (
        f"{len(times)} answers, p50 {np.percentile(times, 50):.1f} ms, "
        f"p99 {np.percentile(times, 99):.1f} ms, max {max(times):.1f} ms"
    )


def measure(url: str, api: psutil.Process, media_type: str, seconds: float) -> None:
    sizes: list[int] = []
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=ask_for_large, args=(url, media_type, until, sizes)) for _ in range(CLIENTS)]
    with Memory(api) as during:
        for thread in threads:
            thread.start()
        times = ask_for_small(url, until)
        for thread in threads:
            thread.join()
    time.sleep(REST_SECONDS)
    with Memory(api) as after:
        time.sleep(2)
    print(
        f"{media_type:18} scale {LARGEST[media_type]}: {len(sizes) / seconds:5.1f} large answers/s of "
        f"{max(sizes) / 2**20:.1f} MB; n = 1: {describe(times)}; "
        f"at most {during.peak:.0f} MB, "
        f"{REST_SECONDS:.0f} s later {after.peak:.0f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    gc.collect()
    gc.freeze()
    with running() as (url, api):
        with Memory(api) as idle:
            time.sleep(2)
        print(f"idle: {idle.peak:.0f} MB")
        for media_type in LARGEST:
            measure(url, api, media_type, arguments.seconds)


if __name__ == "__main__":
    main()
