import numpy as np
import pytest

from app import lines
from app.lines import HEIGHT, INK_HEIGHT, MARGIN


def draw(top: int, left: int, height: int, width: int) -> np.ndarray:
    image = np.zeros((28, 28), np.uint8)
    image[top : top + height, left : left + width] = 255
    return image


def find_ink(line: np.ndarray) -> list[tuple[int, int]]:
    """First and last column of each piece of ink."""
    edges = np.flatnonzero(np.diff(np.pad((line > 0).any(axis=0).astype(int), 1)))
    return [(int(start), int(end) - 1) for start, end in edges.reshape(-1, 2)]


def test_ink_stands_on_one_line_and_has_one_height() -> None:
    images = np.stack([draw(0, 0, 20, 5), draw(8, 20, 20, 8), draw(10, 10, 10, 4)])
    (line,) = lines.compose(images, 3, 4)
    assert line.shape[0] == HEIGHT
    pieces = find_ink(line)
    assert pieces == [(4, 8), (13, 20), (25, 32)]  # 5, 8 and, twice as high, 8 wide; 4 apart
    for start, end in pieces:
        rows = np.flatnonzero((line[:, start : end + 1] > 127).any(axis=1))
        assert (rows[0], rows[-1]) == (MARGIN, MARGIN + INK_HEIGHT - 1)
    assert line.shape[1] == 33 + MARGIN


@pytest.mark.parametrize(("spacing", "expected"), [(0, [(4, 23)]), (3, [(4, 13), (17, 26)]), (-4, [(4, 19)])])
def test_spacing_is_between_ink(spacing: int, expected: list[tuple[int, int]]) -> None:
    images = np.stack([draw(4, 9, 20, 10)] * 2)
    assert find_ink(lines.compose(images, 2, spacing)[0]) == expected


def test_a_digit_never_begins_left_of_the_one_before() -> None:
    images = np.stack([draw(4, 9, 20, 3)] * 5)
    (line,) = lines.compose(images, 5, -20)
    assert find_ink(line) == [(4, 10)]  # each one pixel further right


def test_lines_of_several_widths_are_one_block() -> None:
    images = np.stack([draw(4, 9, 20, width) for width in (2, 2, 12, 12)])
    block = lines.compose(images, 2, 4)
    assert block.shape == (2, HEIGHT, 2 * MARGIN + 28)
    assert find_ink(block[0]) == [(4, 5), (10, 11)]


def test_specks_are_not_ink() -> None:
    image = draw(6, 9, 16, 6)
    image[0, 0] = image[27, 27] = 255
    (line,) = lines.compose(image[None], 1, 4)
    assert find_ink(line) == [(4, 11)]  # 6 wide and 16 high becomes 8 and 20


def test_of_many_small_parts_the_largest_is_ink() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[::4, ::4] = 200
    image[8, 8] = 255
    assert lines.compose(image[None], 1, 4).any()


def test_no_ink_is_a_gap() -> None:
    assert not lines.compose(np.zeros((2, 28, 28), np.uint8), 2, 4).any()


@pytest.mark.parametrize("spacing", [-20, 0, 100])
@pytest.mark.parametrize("length", [1, 2, 32])
def test_no_line_is_wider_than_measured(length: int, spacing: int) -> None:
    rng = np.random.default_rng(0)
    images = np.stack([draw(0, 0, *rng.integers(1, 28, 2)) for _ in range(4 * length)])
    block = lines.compose(images, length, spacing)
    height, width = lines.measure(length, spacing)
    assert block.shape[1] == height
    assert block.shape[2] <= width
