"""What the cache of deploy/nginx/digits.conf answers, and what drawing through it costs.

Starts `digits serve` and an nginx in front of it, and loads them in turns: pictures that are kept, pictures that are
drawn through nginx, and pictures that the service draws for wrk itself. Prints the medians. Needs wrk and nginx.

    .venv/bin/python -m benchmarks.serving.cached --rounds 7
"""

import argparse
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import httpx
import psutil

from app.processes.valkey import find_free_port
from tests import nginx
from tests.processes import answers, eventually, running_api

HERE = Path(__file__).parent
PATH = "/generate?arch=dcgan&version=1&n={n}"
SEEDS = 1000  # as cached.lua asks for

# A way to ask → whether nginx is asked, and whether for one of 1,000 seeds.
WAYS = {"kept": (True, True), "drawn, through nginx": (True, False), "drawn, without nginx": (False, False)}


def read_cpu() -> tuple[float, float]:
    """Seconds of the CPU that nginx has taken until now, and that everything else has but this process and wrk."""
    taken = {True: 0.0, False: 0.0}
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        taken[process.name() == "nginx"] += times.user + times.system
    return taken[True], taken[False]


def load(url: str, seeded: bool, clients: int, seconds: int) -> tuple[float, float, float, float]:
    """Good answers a second, the 99th percentile of the latency in ms, and µs of the CPU an answer: nginx, service."""
    command = ["wrk", f"-c{clients}", f"-d{seconds}s", "-t1", "-s", str(HERE / "cached.lua"), url]
    environment = {**os.environ, "SEEDED": str(int(seeded))}
    before = read_cpu()
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    [line] = [line for line in output.splitlines() if line.startswith("FIGURES")]
    count, bad, took, p99 = map(float, line.split()[1:])
    if bad:
        raise SystemExit(f"{bad:.0f} of {count:.0f} answers of {url} are not good:\n{output}")
    proxy, service = ((now - then) / count * 1e6 for then, now in zip(before, read_cpu(), strict=True))
    return count / took, p99, proxy, service


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="per way and round")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--processes", type=int, default=2, help="of the API")
    parser.add_argument("--n", type=int, nargs="+", default=[1, 16])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), find_free_port()
        environment = {"DIGITS_MODEL_DIR": name, "DIGITS_API_PROCESSES": str(arguments.processes)}
        with running_api(folder, **environment) as api:
            behind = f"{api.base_url.host}:{api.base_url.port}"
            proxy = f"http://127.0.0.1:{port}"
            with (
                nginx.running(folder, nginx.configure_cache(folder / "cache", port, behind)),
                httpx.Client(base_url=proxy) as client,
            ):
                eventually(lambda: answers(client), "nginx and the API behind it answer")
                for n in arguments.n:
                    measure(n, {True: proxy, False: str(api.base_url)}, arguments)


def measure(n: int, urls: dict[bool, str], arguments: argparse.Namespace) -> None:
    for seed in range(SEEDS):
        httpx.get(f"{urls[True]}{PATH.format(n=n)}&seed={seed}", timeout=60).raise_for_status()
    found: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds + 1):
        for way in sorted(WAYS, reverse=bool(number % 2)):
            proxied, seeded = WAYS[way]
            url = urls[proxied].rstrip("/") + PATH.format(n=n)
            found[way].append(load(url, seeded, arguments.clients, arguments.seconds))
    for way, all_of_them in found.items():
        rates, latencies, proxy, service = zip(*all_of_them[1:], strict=True)  # the first round warms up
        print(
            f"n = {n}, {arguments.clients} clients, {way}: {statistics.median(rates):,.0f} requests/s "
            f"({min(rates):,.0f} … {max(rates):,.0f}), p99 {statistics.median(latencies):.1f} ms, "
            f"CPU an answer: nginx {statistics.median(proxy):.0f} µs, service {statistics.median(service):.0f} µs",
            flush=True,
        )


if __name__ == "__main__":
    main()
