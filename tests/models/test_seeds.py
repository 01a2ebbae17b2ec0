import random

import pytest

from models import seeds


@pytest.mark.parametrize("count", [1, 2, 1024, seeds.MAX_SEED + 1])
def test_fresh_seeds_leave_room_for_all(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "randint", lambda low, high: high)  # the worst of all chances
    assert seeds.make_fresh(count) + count - 1 == seeds.MAX_SEED


def test_fresh_seeds_differ() -> None:
    assert len({seeds.make_fresh() for _ in range(10)}) > 1
