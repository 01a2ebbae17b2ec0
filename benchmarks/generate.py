"""Requests a second and latencies of ``POST /generate`` on a running service.

.venv/bin/digits serve &
.venv/bin/python benchmarks/generate.py --seconds 5
"""

import argparse
import statistics
import threading
import time

import httpx

SIZES = (1, 16, 64)
CLIENTS = (1, 8)


def load(url: str, arch: str, n: int, clients: int, seconds: float) -> list[float]:
    """The latency of every request, in seconds; each client asks again as soon as it was answered."""
    latencies: list[float] = []
    deadline = time.perf_counter() + seconds

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while (began := time.perf_counter()) < deadline:
                client.post("/generate", params={"arch": arch, "n": n}).raise_for_status()
                latencies.append(time.perf_counter() - began)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seconds", type=float, default=5.0, help="a cell")
    arguments = parser.parse_args()
    print(f"{'arch':10}{'n':>5}{'clients':>9}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}")
    for arch in ("vanilla", "dcgan", "wgan"):
        for n in SIZES:
            for clients in CLIENTS:
                load(arguments.url, arch, n, clients, 0.5)  # warm
                found = load(arguments.url, arch, n, clients, arguments.seconds)
                cuts = statistics.quantiles(found, n=100)
                rate = len(found) / arguments.seconds
                print(f"{arch:10}{n:5}{clients:9}{rate:12.0f}{cuts[49] * 1e3:9.1f}{cuts[98] * 1e3:9.1f}")


if __name__ == "__main__":
    main()
