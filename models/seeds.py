"""Seeds: the range that every request and run may use, and a fresh one for those that name none."""

import random

# torch's CPU generator keeps 32 bits of a seed, and image i of a request is drawn from seed + i.
_BITS = 31
MAX_SEED = 2**_BITS - 1


def make_fresh() -> int:
    """A seed in 0…``MAX_SEED``, each time another; not for secrets."""
    return random.getrandbits(_BITS)
