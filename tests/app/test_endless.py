"""Work without an end begins again, whatever ends it, and the log says so."""

import asyncio

import pytest

from app import endless


async def give_up() -> None:
    pass


async def fail() -> None:
    raise RuntimeError("a fault")


async def wait_for_what_is_canceled() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.parametrize("end", [give_up, fail, wait_for_what_is_canceled])
def test_what_has_ended_begins_again(
    end: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(endless, "PAUSE_SECONDS", 0.0)

    async def run() -> None:
        again = asyncio.Event()
        runs: list[int] = []

        async def work() -> None:
            runs.append(1)
            if len(runs) < 3:
                await end()  # type: ignore[operator]
                return
            again.set()
            await asyncio.Event().wait()

        task = endless.start("the work", work)
        async with asyncio.timeout(10):
            await again.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(runs) == 3

    asyncio.run(run())
    assert caplog.text.count("the work has ended, and begins again") == 2
    assert ("a fault" in caplog.text) is (end is fail)
