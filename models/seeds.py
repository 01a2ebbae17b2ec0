"""Seeds: the range that requests and runs may use, and a random one for those that name none."""

import random

MAX_SEED = 2**31 - 1  # torch's CPU generator keeps 32 bits


def make_fresh(count: int = 1) -> int:
    """A random seed that leaves room for ``count`` seeds in a row; not for secrets."""
    return random.randint(0, find_last_first(count))


def find_last_first(count: int) -> int:
    """The largest seed from which ``count`` seeds in a row stay within 0…``MAX_SEED``."""
    return MAX_SEED - (count - 1)
