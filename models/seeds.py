"""Seeds: the range that every request and run may use, and a fresh one for those that name none."""

import secrets

# torch's CPU generator keeps 32 bits of a seed, and image i of a request is drawn from seed + i.
MAX_SEED = 2**31 - 1


def fresh() -> int:
    """A seed in 0…``MAX_SEED`` that nobody can foresee."""
    return secrets.randbelow(MAX_SEED + 1)
