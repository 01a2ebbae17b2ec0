"""Two checkouts of this service under the same load, in pairs: is one faster?

Starts `digits serve` of both checkouts and puts them under load in turns, so that both run on the
machine in the same state. Prints, for each n, the medians of both and the median of the pairs' ratios: of
the requests/s, and of the CPU time that a request takes, which other work on the machine changes less.
Needs wrk (Debian: apt install wrk).

    git worktree add /tmp/before HEAD~1
    .venv/bin/python benchmarks/serving/pair.py /tmp/before . --pairs 11
"""

import argparse
import statistics
import sys
from pathlib import Path

import psutil
from compare import Contender, load, started

PEERS = Path()  # none is needed
DIGITS = Path(sys.executable).parent / "digits"


def contender(checkout: Path) -> Contender:
    environment = {"PYTHONPATH": str(checkout.resolve()), "DIGITS_MODEL_DIR": "/nowhere"}
    command = f"{DIGITS} serve --port {{port}}"
    return Contender(str(checkout), command, "/generate?arch=dcgan&n={n}", cwd=checkout, environment=environment)


def sum_cpu_seconds(service: psutil.Process) -> float:
    """The CPU time of all processes of a service until now."""
    times = [process.cpu_times() for process in (service, *service.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def compare(name: str, unit: str, values: list[list[float]]) -> str:
    """The medians of both checkouts; the first pair only warms them up."""
    before, after = (figures[1:] for figures in values)
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    return (
        f"  {name}: before {statistics.median(before):.0f}, after {statistics.median(after):.0f} {unit}, "
        f"after / before {statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--seconds", type=int, default=3, help="per half of a pair")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--n", type=int, nargs="+", default=[1, 16])
    arguments = parser.parse_args()
    pair = [contender(checkout) for checkout in (arguments.before, arguments.after)]
    with started(pair[0], PEERS) as first, started(pair[1], PEERS) as second:
        for n in arguments.n:
            rates: list[list[float]] = [[], []]
            cpu: list[list[float]] = [[], []]
            for number in range(arguments.pairs + 1):
                order = [(0, first), (1, second)]
                for index, (service, url) in order if number % 2 else reversed(order):
                    used = sum_cpu_seconds(service)
                    good, _, _, _, took, *_ = load(pair[index], url, n, arguments.clients, arguments.seconds)
                    rates[index].append(good / took)
                    cpu[index].append((sum_cpu_seconds(service) - used) / good * 1e6)
            print(f"n = {n}, {arguments.clients} clients, {arguments.pairs} pairs")
            print(compare("requests", "requests/s", rates))
            print(compare("CPU time", "µs a request", cpu))


if __name__ == "__main__":
    main()
