"""Labelled data sets of generated digits, made block by block, so that the memory is bounded.

A set consists of blocks of up to 100 digits of each class. A block has 16,384 seeds of its own, which the seed of
the set chooses. The images of these seeds are drawn and read, one after the other, until the block is full. So
blocks can be made anywhere and in any order: parts of a set, made on several machines, share no seed, and have
together the blocks of the whole.
"""

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version as get_version
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.archives import ARCHIVES, TEST, TRAIN, Archive
from app.engine import Engine, EngineBusyError
from app.entries import LoadedVersion
from app.orders import MIN_CONFIDENCE
from app.rendering import Images
from app.waiting import TooLateError
from models import readers, seeds
from models.readers import Reading
from models.seed_index import TooFewError
from worker.jobs import require_number
from worker.linux import yield_thread
from worker.recipes import ArchName

T = TypeVar("T")

BLOCK = 100  # digits of each class in a block
SLOT = 16_384  # seeds of a block: a digit that fewer than 0.6 % of the images show is not drawn often enough
SLOTS = (seeds.MAX_SEED + 1) // SLOT

LOOK = 16  # images that are drawn and read at a time: others may have to wait for them
AHEAD = 8  # such steps that are under way at a time

MAX_PER_CLASS = 10_000  # of one answer
MAX_LARGE_PER_CLASS = (SLOTS - 1) * BLOCK
MAX_RUNNING = 4  # sets at a time
RETRY_SECONDS = 10  # until another try is worth it
BUSY_SECONDS = 0.1  # until a set that is under way asks again
NICENESS = 10  # of packing, against 0 of the threads that draw

README = """\
# {total:,} generated digits

{per_class:,} of each class, drawn by {arch} version {version} of `digits {release}`: pictures of 28 × 28 grey pixels,
0 is background, 255 is ink. No person wrote them.

**The labels are a classifier's**: what two networks read in the images, with a mean probability of at least
{min_confidence}. Unclear images were left out, so the set is a little easier than real handwriting, and a few labels
are wrong. `manifest.json` says how the set was made, and has the SHA-256 of each block of it.

{how}
"""

HOW = {
    "idx": "The four files have MNIST's names and format. For loaders that want them unpacked, first `gunzip *.gz`;\n"
    "torchvision looks for them in a folder `MNIST/raw`.",
    "png": "Each folder `0` … `9` has the images of that class, as loaders of image folders expect it. The name of a\n"
    "file ends with the seed of its image.",
    "npz": "`numpy.load` gives `x_train`, `y_train`, `x_test` and `y_test`, as `keras.datasets.mnist` does.",
}


class TooManySetsError(Exception):
    """As many data sets as can be made at a time are under way; try again later."""


class DatasetOrder(BaseModel):
    """Which data set to make."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    arch: ArchName
    """The architecture that draws."""
    version: str | None = None
    """A number, or latest; default: the pinned one, else the best."""
    _check_numbers = field_validator("per_class", "min_confidence", "seed", "test_share", mode="before")(require_number)

    per_class: int = Field(1_000, ge=1, le=MAX_PER_CLASS)
    """How many of each of the ten classes."""
    min_confidence: float = Field(MIN_CONFIDENCE, ge=0.5, le=0.999)
    """Of each label."""
    seed: int = Field(0, ge=0, le=seeds.MAX_SEED)
    """Another seed gives another set."""
    format: Literal["idx", "png", "npz"] = "idx"
    """idx: MNIST's four files; png: folders 0 … 9; npz: arrays as Keras has them."""
    test_share: float | None = Field(None, ge=0, le=0.9)
    """How much of it is test data; default: a seventh, as in MNIST, or 0 for png."""

    @property
    def test_per_class(self) -> int:
        share = self.test_share if self.test_share is not None else 0 if self.format == "png" else 1 / 7
        return round(self.per_class * share)


class LargeDatasetOrder(DatasetOrder):
    """A data set that need not be sent over the network."""

    per_class: int = Field(1_000, ge=1, le=MAX_LARGE_PER_CLASS)


@dataclass(frozen=True)
class Block:
    """A piece of a data set."""

    split: str
    number: int  # in the set
    first_seed: int  # of ``SLOT``
    per_class: int  # digits


@dataclass(frozen=True)
class Part:
    """One of several parts of a set: 1 … ``count``."""

    number: int = 1
    count: int = 1

    def cut(self, blocks: list[Block]) -> list[Block]:
        bounds = [len(blocks) * number // self.count for number in (self.number - 1, self.number)]
        return blocks[slice(*bounds)]


WHOLE = Part()


def plan_blocks(order: DatasetOrder, part: Part = WHOLE) -> list[Block]:
    """The blocks of a set, or of a part of it: first those of its training data."""
    counts = {TRAIN: order.per_class - order.test_per_class, TEST: order.test_per_class}
    sizes = [(split, min(BLOCK, n - begun)) for split, n in counts.items() for begun in range(0, n, BLOCK)]
    slots = random.Random(order.seed).sample(range(SLOTS), len(sizes))
    blocks = [
        Block(split, number, slot * SLOT, size)
        for number, ((split, size), slot) in enumerate(zip(sizes, slots, strict=True))
    ]
    return [block for split in counts for block in part.cut([one for one in blocks if one.split == split])]


@dataclass(frozen=True)
class _Filled:
    """A block with its digits."""

    block: Block
    digits: list[tuple[int, NDArray[np.uint8], int]]  # seed, image, label
    looked: int  # images that were drawn for it

    def add_to(self, archive: Archive, seed: int) -> dict[str, Any]:
        """Shuffle, and add the digits; the facts for the manifest."""
        block = self.block
        random.Random(f"{seed} {block.number}").shuffle(self.digits)
        images = np.stack([image for _, image, _ in self.digits])
        labels = np.array([label for _, _, label in self.digits], np.uint8)
        archive.add(images, labels, [seed for seed, _, _ in self.digits])
        return {
            "split": block.split,
            "number": block.number,
            "first_seed": block.first_seed,
            "drawn": self.looked,
            "digits": len(labels),
            "sha256": hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        }


class Exporter:
    """Makes data sets with an engine, a few at a time."""

    def __init__(self, engine: Engine, deadline_seconds: float) -> None:
        """``deadline_seconds``: for a block."""
        self._engine = engine
        self._deadline_seconds = deadline_seconds
        self._running = 0
        self._packer = ThreadPoolExecutor(1, "packer", yield_thread, (NICENESS,))

    def close(self) -> None:
        """End the thread that packs."""
        self._packer.shutdown(cancel_futures=True)

    async def export(
        self,
        order: DatasetOrder,
        version: LoadedVersion,
        part: Part = WHOLE,
        on_progress: Callable[[int], None] = lambda digits: None,
    ) -> AsyncGenerator[bytes]:
        """The file of a data set, in pieces. ``on_progress`` hears how many digits are made.

        Raises:
            TooManySetsError: enough are under way.
            EngineBusyError: too many images are waiting to be drawn.
            TooLateError: a block took too long.
            TooFewError: the generator does not draw enough of a digit.
        """
        self.require_place()
        self._running += 1
        try:
            async with aclosing(self._export(order, version, part, on_progress)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._running -= 1

    def require_place(self) -> None:
        """Go on only if another data set can be made now.

        Raises:
            TooManySetsError: enough are under way.
        """
        if self._running >= MAX_RUNNING:
            raise TooManySetsError(f"{self._running} data sets are under way; try again in {RETRY_SECONDS} s")

    async def _export(
        self, order: DatasetOrder, version: LoadedVersion, part: Part, on_progress: Callable[[int], None]
    ) -> AsyncGenerator[bytes]:
        blocks = plan_blocks(order, part)
        counts = {split: 10 * sum(b.per_class for b in blocks if b.split == split) for split in (TRAIN, TEST)}
        archive = ARCHIVES[order.format](version.manifest, counts, order.test_per_class > 0)
        level, made, facts = readers.find_level(order.min_confidence), 0, []
        for split in (TRAIN, TEST):
            archive.begin(split)
            for block in (block for block in blocks if block.split == split):
                filled = await self._fill_soon(block, level, version, patient=made > 0)
                facts.append(await self._pack(filled.add_to, archive, order.seed))
                yield archive.take()
                made += len(filled.digits)
                on_progress(made)
            await self._pack(archive.end)
        await self._pack(archive.finish, _write_texts(order, version, part, made, facts))
        yield archive.take()

    async def _pack(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run ``work`` in the thread that packs."""
        return await asyncio.get_running_loop().run_in_executor(self._packer, work, *arguments)

    async def _fill_soon(self, block: Block, level: int, version: LoadedVersion, patient: bool) -> _Filled:
        """Fill a block before the deadline."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await self._fill(block, level, version, patient)
        except TimeoutError:
            seconds = self._deadline_seconds
            raise TooLateError(f"{BLOCK} digits of each class took over {seconds:g} s; try again later") from None

    async def _fill(self, block: Block, level: int, version: LoadedVersion, patient: bool) -> _Filled:
        """Draw and read the images of a block's seeds until there are enough of each class."""
        chosen: list[tuple[int, NDArray[np.uint8], int]] = []  # seed, image, label
        missing = [block.per_class] * 10
        looked = 0
        async with aclosing(self._look(block, version, patient)) as steps:
            async for some, images, (digits, levels) in steps:
                for one, image, digit, reached in zip(some, images, digits.tolist(), levels.tolist(), strict=True):
                    looked += 1
                    if reached >= level and missing[digit]:
                        missing[digit] -= 1
                        chosen.append((one, image, digit))
                if not any(missing):
                    return _Filled(block, chosen, looked)
        digit = next(digit for digit, count in enumerate(missing) if count)
        raise TooFewError(digit, block.per_class - missing[digit], block.per_class, looked)

    async def _look(
        self, block: Block, version: LoadedVersion, patient: bool
    ) -> AsyncGenerator[tuple[Sequence[int], Images, Reading]]:
        """The images of a block's seeds and what is read in them, a few at a time."""
        waiting: list[tuple[range, asyncio.Future[tuple[Images, Reading]]]] = []
        steps = iter(range(block.first_seed, block.first_seed + SLOT, LOOK))
        try:
            while True:
                while len(waiting) < AHEAD and (first := next(steps, None)) is not None:
                    some = range(first, first + LOOK)
                    waiting.append((some, await self._submit(version, some, patient)))
                if not waiting:
                    return
                some, answer = waiting.pop(0)
                yield some, *await answer
        finally:
            for _, answer in waiting:
                answer.cancel()

    async def _submit(
        self, version: LoadedVersion, some: Sequence[int], patient: bool
    ) -> asyncio.Future[tuple[Images, Reading]]:
        """Queue images in the engine; ``patient``: wait until there is room for them."""
        while True:
            try:
                return self._engine.submit(version, some, _read, background=True)
            except EngineBusyError:
                if not patient:
                    raise
            await asyncio.sleep(BUSY_SECONDS)


def _read(images: Images) -> tuple[Images, Reading]:
    return images, readers.read(images)


def _write_texts(
    order: DatasetOrder, version: LoadedVersion, part: Part, made: int, blocks: list[dict[str, Any]]
) -> dict[str, str]:
    said = version.manifest
    facts = {
        **order.model_dump(exclude={"version"}),
        "version": said.version,
        "test_per_class": order.test_per_class,
        "part": f"{part.number}/{part.count}",
        "digits": made,
        "latents": said.latents,
        "weights_sha256": said.weights_sha256,
        "readers_sha256": readers.sha256(),
        "release": get_version("digits"),
        "torch": get_version("torch"),
        "labels": "by two classifiers: the class of the highest mean probability",
        "sha256": "of a block: of its images and then its labels, as bytes, in their order in the set",
        "blocks": blocks,
    }
    readme = README.format(
        total=made,
        per_class=made // 10,
        arch=said.arch,
        version=said.version,
        release=facts["release"],
        min_confidence=order.min_confidence,
        how=HOW[order.format],
    )
    return {"README.md": readme, "manifest.json": json.dumps(facts, indent=2) + "\n"}
