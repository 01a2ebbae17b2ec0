"""The seeds of an order: those that follow its first, or those that draw the digits which it asks for.

The latter come from the version's index or, until there is one, from looking at its images. Both ways find the
same seeds. Must not know of HTTP.
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from app.orders import MIN_CONFIDENCE, Order
from models import seeds
from models.readers import Reading, find_level
from models.seed_index import SEEDS, SeedIndex, TooFewError, arrange

LOOK = 128  # images that are drawn and read at a time

FindIndex = Callable[[], SeedIndex | None]
Read = Callable[[Sequence[int]], Awaitable[Reading]]  # draws the images of some seeds and reads them


async def find_seeds(order: Order, index: FindIndex, read: Read) -> tuple[int, Sequence[int]]:
    """The seed that repeats an order, and the seeds of all its digits.

    ``read`` is used as long as ``index`` gives none.

    Raises:
        TooFewError: not enough of the 65,536 seeds draw a digit that is asked for.
    """
    wanted = order.wanted
    if not wanted:
        first = seeds.make_fresh(order.count) if order.seed is None else order.seed
        return first, range(first, first + order.count)
    start = random.randrange(SEEDS) if order.seed is None else order.seed
    return start, await _choose(wanted, start, find_level(order.min_confidence or MIN_CONFIDENCE), index, read)


async def _choose(wanted: Sequence[int], start: int, level: int, index: FindIndex, read: Read) -> Sequence[int]:
    """As :meth:`SeedIndex.choose`."""
    counts = Counter(wanted)
    found: dict[int, list[int]] = {digit: [] for digit in counts}
    for first in range(start, start + SEEDS, LOOK):
        if known := index():
            return known.choose(wanted, start, level)
        some = [seed % SEEDS for seed in range(first, first + LOOK)]
        for seed, digit, reached in zip(some, *(values.tolist() for values in await read(some)), strict=True):
            if digit in found and reached >= level:
                found[digit].append(seed)
        if all(len(found[digit]) >= count for digit, count in counts.items()):
            return arrange(wanted, found)
    digit = next(digit for digit, count in counts.items() if len(found[digit]) < count)
    raise TooFewError(digit, len(found[digit]), counts[digit], SEEDS)
