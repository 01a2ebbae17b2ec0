"""Two checkouts of this service under the same load, in pairs: is one faster?

Starts `digits serve` of both checkouts and puts them under load in turns, so that both run on the
machine in the same state. Prints, for each n, the median requests/s of both and the median of the
pairs' ratios. Needs wrk (Debian: apt install wrk).

    git worktree add /tmp/before HEAD~1
    .venv/bin/python benchmarks/serving/pair.py /tmp/before . --pairs 11
"""

import argparse
import statistics
import sys
from pathlib import Path

from compare import Contender, load, started

PEERS = Path()  # none is needed
DIGITS = Path(sys.executable).parent / "digits"


def contender(checkout: Path) -> Contender:
    environment = {"PYTHONPATH": str(checkout.resolve()), "DIGITS_MODEL_DIR": "/nowhere"}
    command = f"{DIGITS} serve --port {{port}}"
    return Contender(str(checkout), command, "/generate?arch=dcgan&n={n}", cwd=checkout, environment=environment)


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
    with started(pair[0], PEERS) as (_, first), started(pair[1], PEERS) as (_, second):
        for n in arguments.n:
            rates: list[list[float]] = [[], []]
            for number in range(arguments.pairs + 1):
                order = [(0, first), (1, second)]
                for index, url in order if number % 2 else reversed(order):
                    good, _, _, _, took, *_ = load(pair[index], url, n, arguments.clients, arguments.seconds)
                    rates[index].append(good / took)
            before, after = (values[1:] for values in rates)  # the first pair warms both up
            ratios = [b / a for a, b in zip(before, after, strict=True)]
            print(
                f"n = {n}, {arguments.clients} clients, {len(ratios)} pairs: before {statistics.median(before):.0f}, "
                f"after {statistics.median(after):.0f} requests/s, after / before {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f} … {max(ratios):.3f})"
            )


if __name__ == "__main__":
    main()
