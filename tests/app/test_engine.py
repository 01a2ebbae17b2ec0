"""The engine alone: shipped generators if bytes matter, a scripted one if order matters."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app import engine as engine_module
from app.engine import Engine, EngineBusyError
from app.generators import Generators
from app.rendering import Images
from models.archs import ARCHS
from models.inference import BATCH


class Scripted:
    """Draws images whose pixels equal their seed, once ``may_draw`` is set. Notes the seeds of every pass."""

    arch = "wgan"

    def __init__(self) -> None:
        self.passes: list[list[int]] = []
        self.may_draw = threading.Event()
        self.drawing = threading.Event()

    def draw(self, seeds: Sequence[int]) -> Images:
        self.passes.append(list(seeds))
        self.drawing.set()
        assert self.may_draw.wait(60)
        if 13 in seeds:
            raise RuntimeError("unlucky")
        return np.broadcast_to(np.array(seeds, np.uint8)[:, None, None], (len(seeds), 28, 28))


def seeds_of(images: Images) -> bytes:
    return bytes(images[:, 0, 0])


@asynccontextmanager
async def running(threads: int = 1, wait_seconds: float = 0.0) -> AsyncIterator[Engine]:
    engine = Engine(threads, wait_seconds)
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


@asynccontextmanager
async def held(generator: Any, threads: int = 1) -> AsyncIterator[tuple[Engine, asyncio.Future[bytes]]]:
    """An engine whose thread is busy with seed 200 until ``may_draw`` is set."""
    async with running(threads) as engine:
        first = engine.submit(generator, [200], seeds_of)
        await asyncio.to_thread(generator.drawing.wait, 60)
        try:
            yield engine, first
        finally:
            generator.may_draw.set()


@pytest.mark.parametrize("threads", [1, 3])
def test_bytes_in_a_crowd_are_those_alone(threads: int, tmp_path: Path) -> None:
    generators = Generators(tmp_path, torch.device("cpu"))
    generators.refresh()
    orders = [
        (generators.get(arch), range(seed, seed + n))
        for arch in ARCHS
        for seed, n in ((0, 1), (7, 3), (9, 16), (2, 33), (1, 70))
    ]

    async def ask() -> None:
        async with running(threads, 0.002) as engine:
            alone = [await engine.submit(*order, bytes_of) for order in orders]
            for _ in range(5):
                crowd = await asyncio.gather(*(engine.submit(*order, bytes_of) for order in orders * 3))
                assert crowd == alone * 3

    asyncio.run(ask())


def _note(order: list[str], name: str, _: object) -> None:
    order.append(name)


def bytes_of(images: Images) -> bytes:
    return images.tobytes()


def test_requests_share_passes_and_large_ones_let_small_ones_by() -> None:
    async def ask() -> None:
        generator: Any = Scripted()
        async with held(generator) as (engine, first):
            answered: list[str] = []
            large = engine.submit(generator, range(20, 20 + 3 * BATCH), seeds_of)
            small = [engine.submit(generator, [150 + index], seeds_of) for index in range(8)]
            large.add_done_callback(lambda _: answered.append("large"))
            for future in small:
                future.add_done_callback(lambda _: answered.append("small"))
            generator.may_draw.set()
            assert await large == bytes(range(20, 20 + 3 * BATCH))
            assert [await future for future in small] == [bytes([150 + index]) for index in range(8)]
            assert await first == bytes([200])
        large_seeds, small_seeds = range(20, 20 + 3 * BATCH), range(150, 158)
        assert generator.passes[1:] == [
            [*large_seeds[:BATCH]],
            [*small_seeds, *large_seeds[BATCH : 2 * BATCH - 8]],
            [*large_seeds[2 * BATCH - 8 : 3 * BATCH - 8]],
            [*large_seeds[3 * BATCH - 8 :]],
        ]
        assert answered == ["small"] * 8 + ["large"]

    asyncio.run(ask())


def test_generators_take_turns() -> None:
    async def ask() -> None:
        one: Any = Scripted()
        other: Any = Scripted()
        other.may_draw.set()
        async with held(one) as (engine, _):
            order: list[str] = []
            for name, generator in (("one", one), ("one", one), ("other", other)):
                engine.submit(generator, range(20, 20 + BATCH), seeds_of).add_done_callback(partial(_note, order, name))
            one.may_draw.set()
            await engine.submit(one, [0], seeds_of)
        assert order == ["one", "other", "one"]

    asyncio.run(ask())


def test_too_much_is_refused_with_the_time_that_what_waits_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        monkeypatch.setattr(engine_module, "FIRST_GUESS_SECONDS", 0.001)
        generator: Any = Scripted()
        async with held(generator, threads=2) as (engine, _):
            second = engine.submit(generator, [201], seeds_of)
            while len(generator.passes) < 2:  # both threads are busy
                await asyncio.sleep(0.01)
            accepted = [engine.submit(generator, range(1024), lambda _: b"") for _ in range(63)]
            with pytest.raises(EngineBusyError) as refused:
                engine.submit(generator, range(1024), seeds_of)
            assert refused.value.retry_seconds == 33  # 64,514 images of 1 ms, two at a time
            for future in accepted:
                future.cancel()
            generator.may_draw.set()
            await second
            assert await engine.submit(generator, [5], seeds_of) == bytes([5])
        assert [len(seeds) for seeds in generator.passes] == [1, 1, 1]  # nothing that was canceled was drawn

    asyncio.run(ask())


def test_too_many_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        monkeypatch.setattr(engine_module, "MAX_REQUESTS", 3)
        generator: Any = Scripted()
        async with held(generator) as (engine, _):
            two = [engine.submit(generator, [seed], seeds_of) for seed in (1, 2)]
            with pytest.raises(EngineBusyError) as refused:
                engine.submit(generator, [3], seeds_of)
            assert refused.value.retry_seconds == 1
            generator.may_draw.set()
            assert await asyncio.gather(*two) == [bytes([1]), bytes([2])]
            await asyncio.gather(*(engine.submit(generator, [seed], seeds_of) for seed in (1, 2)))  # room again

    asyncio.run(ask())


def test_what_is_canceled_half_way_is_not_drawn_to_its_end() -> None:
    async def ask() -> None:
        generator: Any = Scripted()
        async with running() as engine:
            large = engine.submit(generator, range(4 * BATCH), seeds_of)
            await asyncio.to_thread(generator.drawing.wait, 60)
            large.cancel()
            generator.may_draw.set()
            assert await engine.submit(generator, [200], seeds_of) == bytes([200])
        assert [len(seeds) for seeds in generator.passes] == [BATCH, 1]

    asyncio.run(ask())


def test_errors_reach_those_whom_they_concern_alone() -> None:
    def cannot(_: Images) -> bytes:
        raise ValueError("no such picture")

    async def ask() -> None:
        generator: Any = Scripted()
        generator.may_draw.set()
        async with running() as engine:
            for _ in range(3):
                unlucky = engine.submit(generator, range(3 * BATCH), seeds_of)  # image 13 of the first pass
                impossible = engine.submit(generator, [100], cannot)
                fine = engine.submit(generator, [101], seeds_of)
                results = await asyncio.gather(unlucky, impossible, fine, return_exceptions=True)
                assert isinstance(results[0], RuntimeError)
                assert isinstance(results[1], ValueError)
                assert results[2] == bytes([101])
            assert (engine._requests, engine._images) == (0, 0)

    asyncio.run(ask())


def test_closing_cancels_what_waits() -> None:
    async def ask() -> None:
        generator: Any = Scripted()
        async with held(generator) as (engine, first):
            waiting = engine.submit(generator, [1], seeds_of)
            closing = asyncio.create_task(asyncio.to_thread(engine.close))
            while not waiting.cancelled():
                await asyncio.sleep(0.01)
            generator.may_draw.set()
            await closing
            assert await first == bytes([200])

    asyncio.run(ask())


def test_seeds_may_come_in_any_order_and_more_than_once() -> None:
    async def ask() -> None:
        version: Any = Scripted()
        version.may_draw.set()
        async with running() as engine:
            seeds = [*range(100, 0, -3), 7, 7, 200]
            seeds.remove(13)
            assert await engine.submit(version, seeds, seeds_of) == bytes(seeds)

    asyncio.run(ask())


def test_small_answers_do_not_wait_for_large_ones_that_are_encoded() -> None:
    async def ask() -> None:
        version: Any = Scripted()
        version.may_draw.set()
        may_encode, encoding = threading.Event(), threading.Event()

        def encode_slowly(images: Images) -> bytes:
            encoding.set()
            assert may_encode.wait(60)
            return seeds_of(images)

        async with running() as engine:
            large = [engine.submit(version, [seed], encode_slowly, apart=True) for seed in (1, 2)]
            await asyncio.to_thread(encoding.wait, 60)
            for seed in range(100, 110):
                assert await engine.submit(version, [seed], seeds_of) == bytes([seed])
            assert not any(future.done() for future in large)
            assert engine._requests == 2  # they count as waiting until they have their answers
            may_encode.set()
            assert await asyncio.gather(*large) == [bytes([1]), bytes([2])]
            assert engine._requests == 0

    asyncio.run(ask())


def test_closing_waits_for_one_large_answer_and_makes_no_other() -> None:
    async def ask() -> None:
        version: Any = Scripted()
        version.may_draw.set()
        encoding, may_encode = threading.Event(), threading.Event()
        encoded: list[bytes] = []

        def encode_slowly(images: Images) -> bytes:
            encoding.set()
            assert may_encode.wait(60)
            encoded.append(seeds_of(images))
            return encoded[-1]

        async with running() as engine:
            for seed in range(5):
                engine.submit(version, [seed], encode_slowly, apart=True)
            await asyncio.to_thread(encoding.wait, 60)
            assert await engine.submit(version, [200], seeds_of) == bytes([200])  # all of them are drawn
            closing = asyncio.create_task(asyncio.to_thread(engine.close))
            while not engine._encoder._shutdown:
                await asyncio.sleep(0.01)
            may_encode.set()
            await closing
        assert encoded == [bytes([0])]

    asyncio.run(ask())


def test_no_seeds_are_an_error_that_harms_nobody() -> None:
    async def ask() -> None:
        version: Any = Scripted()
        version.may_draw.set()
        async with running() as engine:
            with pytest.raises(ValueError, match="no seeds"):
                engine.submit(version, [], seeds_of)
            assert await engine.submit(version, [5], seeds_of) == bytes([5])

    asyncio.run(ask())


def test_pixels_land_where_they_belong() -> None:
    async def ask() -> None:
        generator: Any = Scripted()
        generator.may_draw.set()
        kept: list[Images] = []

        def keep(images: Images) -> bytes:
            kept.append(images)
            return b""

        async with running(threads=4) as engine:
            await asyncio.gather(*(engine.submit(generator, range(20, 120), keep) for _ in range(20)))
        expected = np.broadcast_to(np.arange(20, 120, dtype=np.uint8)[:, None, None], (100, 28, 28))
        assert len(kept) == 20
        assert all((images == expected).all() for images in kept)

    asyncio.run(ask())


def test_the_background_gets_small_passes_when_nobody_else_waits() -> None:
    async def ask() -> None:
        generator: Any = Scripted()
        async with held(generator) as (engine, _):
            slow = engine.submit(generator, range(20, 40), seeds_of, background=True)
            quick = [engine.submit(generator, range(100, 132), seeds_of) for _ in range(3)]
            generator.may_draw.set()
            assert [await answer for answer in quick] == [bytes(range(100, 132))] * 3
            assert await slow == bytes(range(20, 40))
        assert [len(some) for some in generator.passes] == [1, BATCH, BATCH, BATCH, 16, 4]

    asyncio.run(ask())


def test_the_background_gets_its_turn_in_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "TURNS", 3)

    async def ask() -> None:
        generator: Any = Scripted()
        async with held(generator) as (engine, _):
            slow = engine.submit(generator, range(8), seeds_of, background=True)
            crowd = [engine.submit(generator, range(100, 132), seeds_of) for _ in range(9)]
            generator.may_draw.set()
            await asyncio.gather(slow, *crowd)
        assert 0 in generator.passes[3]
        assert len(generator.passes) == 11

    asyncio.run(ask())


def test_closing_cancels_the_background_too() -> None:
    async def ask() -> None:
        generator: Any = Scripted()
        async with held(generator) as (engine, _):
            waiting = engine.submit(generator, range(8), seeds_of, background=True)
            generator.may_draw.set()
            closing = asyncio.to_thread(engine.close)
            await closing
            await asyncio.sleep(0)
            assert waiting.done()

    asyncio.run(ask())
