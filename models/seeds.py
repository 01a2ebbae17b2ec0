"""Seeds: the range that requests and runs may use, and a random seed for those that name none."""

import random

# torch's CPU generator keeps 32 bits of a seed, and image i of a request is drawn from seed + i.
_BITS = 31
MAX_SEED = 2**_BITS - 1


def make_fresh() -> int:
    """A random seed in 0…``MAX_SEED``; not for secrets."""
    return random.getrandbits(_BITS)
