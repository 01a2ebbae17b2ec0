"""Which seed draws which digit: an index of the seeds 0…65,535 of one generator.

The index says what ``models.readers`` read in the images that the service draws. It is a cache: reading
the images again gives the same. It lies beside the versions, in ``<model dir>/seed_index/``, and the
shipped versions have theirs in ``pretrained/seed_index/``. Its name says all that it depends on: the weights
of the generator, the distribution of its latents, and the readers. The file is a line of JSON, with
the sum of what follows: digits and levels of all seeds, packed.
"""

import hashlib
import json
import lzma
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models import files, readers
from models.manifest import Manifest
from models.readers import Reading

SEEDS = 65_536

FOLDER = "seed_index"

_MAX_BYTES = 2**20  # of a file; a real one has 40 KB
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 0, "lp": 0, "pb": 0}]  # bytes without structure

Found = Mapping[int, Sequence[int]]  # digit → seeds that draw it


class InvalidIndexError(Exception):
    """The file of an index is damaged; make it again."""


class TooFewError(Exception):
    """The generator does not draw a digit often enough; ask for fewer, or for a lower confidence."""

    def __init__(self, digit: int, found: int, wanted: int, looked: int) -> None:
        super().__init__(f"{found} of {looked:,} images are a {digit} at this confidence, {wanted} are wanted")
        self.found = found


@dataclass(frozen=True, eq=False)
class SeedIndex:
    """What the readers read in the images of the seeds 0…65,535."""

    digits: NDArray[np.uint8]  # [SEEDS]
    levels: NDArray[np.uint8]  # [SEEDS], as in models.readers
    _fitting: Callable[[int, int], NDArray[np.int32]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_fitting", lru_cache(maxsize=32)(self._find_fitting))

    def _find_fitting(self, digit: int, level: int) -> NDArray[np.int32]:
        return np.flatnonzero((self.digits == digit) & (self.levels >= level)).astype(np.int32)

    def choose(self, wanted: Sequence[int], start: int, level: int) -> list[int]:
        """Seeds that draw the ``wanted`` digits in this order, none twice: the first ones from ``start`` on.

        After the last seed comes 0. ``level`` is the lowest that counts.

        Raises:
            TooFewError: there are not enough.
        """
        found: dict[int, list[int]] = {}
        for digit, count in Counter(wanted).items():
            fitting = self._fitting(digit, level)
            if len(fitting) < count:
                raise TooFewError(digit, len(fitting), count, SEEDS)
            first = int(np.searchsorted(fitting, start))
            taken = fitting[first : first + count].tolist()
            found[digit] = taken + fitting[: count - len(taken)].tolist()
        return arrange(wanted, found)


def arrange(wanted: Sequence[int], found: Found) -> list[int]:
    """The seeds of each digit, in the order of ``wanted``."""
    sources: dict[int, Iterator[int]] = {digit: iter(seeds) for digit, seeds in found.items()}
    return [next(sources[digit]) for digit in wanted]


def make_name(manifest: Manifest) -> str:
    """The name of the index of a version's generator."""
    return f"{make_prefix(manifest)}{readers.sha256()[:16]}"


def make_prefix(manifest: Manifest) -> str:
    """How the names of all indexes of a version's generator begin, whichever readers made them."""
    return f"{manifest.weights_sha256}-{manifest.latents}-"


def build(
    draw: Callable[[Sequence[int]], NDArray[np.uint8]], batch: int, go_on: Callable[[], bool]
) -> SeedIndex | None:
    """Draw and read the images of all seeds; None if ``go_on`` says no. Takes half a minute on one core.

    ``draw`` takes ``batch`` seeds and gives images ``[batch, 28, 28]``.
    """
    read: list[Reading] = []
    for first in range(0, SEEDS, batch):
        if not go_on():
            return None
        read.append(readers.read(draw(range(first, first + batch))))
    digits, levels = (np.concatenate(parts) for parts in zip(*read, strict=True))
    return SeedIndex(digits, levels)


def load(root: Path, name: str) -> SeedIndex | None:
    """The index of this name in a model directory, or in that of the shipped versions; None if there is none.

    Raises:
        InvalidIndexError: it is damaged.
        OSError: it cannot be read just now.
    """
    try:
        content = files.read(root / FOLDER / name, _MAX_BYTES)
        head, _, packed = content.partition(b"\n")
        expected = json.loads(head)["sha256"]
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
        data = unpacker.decompress(packed, 2 * SEEDS + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, lzma.LZMAError, EOFError, RecursionError) as error:
        raise InvalidIndexError(f"{root / FOLDER / name} cannot be read: {error}") from error
    if not unpacker.eof or hashlib.sha256(data).hexdigest() != expected or len(data) != 2 * SEEDS:
        raise InvalidIndexError(f"{root / FOLDER / name} has another sha256 than it says")
    both = np.frombuffer(data, np.uint8)
    return SeedIndex(both[:SEEDS], both[SEEDS:])


def save(root: Path, name: str, index: SeedIndex) -> None:
    """Write an index beside the versions of a model directory.

    Raises:
        OSError: it cannot be written.
    """
    data = index.digits.tobytes() + index.levels.tobytes()
    head = {"seeds": SEEDS, "sha256": hashlib.sha256(data).hexdigest()}
    files.make_folder(root / FOLDER, exist_ok=True)
    packed = lzma.compress(data, lzma.FORMAT_RAW, filters=_FILTERS)
    files.replace(root / FOLDER / name, json.dumps(head).encode() + b"\n" + packed)


def list_files(root: Path) -> list[Path]:
    """The files of all indexes in a model directory, and what is left of some that were never finished."""
    try:
        return sorted((root / FOLDER).iterdir())
    except OSError:  # it does not exist yet, or cannot be read
        return []
