"""Lines: several digits side by side, as one image. Their ink stands on one baseline and has one height.

Must not know which digits they are, or of files.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Images = NDArray[np.uint8]  # [n, 28, 28]

HEIGHT = 28  # pixels, of a line
INK_HEIGHT = 20  # as in MNIST
MARGIN = (HEIGHT - INK_HEIGHT) // 2
MAX_INK_WIDTH = 28  # what is wider becomes lower

INK = 64  # of 255: the grey level from which a pixel is ink
SPECK = 0.1  # of all ink: a part that is less is noise


def compose(images: Images, length: int, spacing: int) -> Images:
    """Lines of ``length`` digits each: ``[n · length, 28, 28]`` → ``[n, HEIGHT, width]``, as wide as the widest.

    ``spacing`` is the number of pixels between the ink of two digits. It may be negative: then they overlap, but
    each begins at least one pixel right of the one before.
    """
    digits = [_trim(image) for image in images]
    lines = [_join(digits[first : first + length], spacing) for first in range(0, len(digits), length)]
    width = max(line.shape[1] for line in lines)
    return np.stack([np.pad(line, ((0, 0), (0, width - line.shape[1]))) for line in lines])


def measure(length: int, spacing: int) -> tuple[int, int]:
    """Height and greatest width of a line."""
    return HEIGHT, 2 * MARGIN + length * MAX_INK_WIDTH + (length - 1) * max(spacing, 1 - MAX_INK_WIDTH)


def _trim(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The ink of an image, ``INK_HEIGHT`` high: ``[INK_HEIGHT, 1…MAX_INK_WIDTH]``."""
    parts, count = ndimage.label(image >= INK, np.ones((3, 3)))
    if count == 0:
        return np.zeros((INK_HEIGHT, INK_HEIGHT), np.uint8)
    ink = ndimage.sum_labels(image, parts, range(1, count + 1))
    kept = np.isin(parts, 1 + np.flatnonzero(ink >= min(SPECK * ink.sum(), ink.max())))
    rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
    cropped = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = cropped.shape
    if height == INK_HEIGHT:
        return cropped
    width = min(max(1, round(width * INK_HEIGHT / height)), MAX_INK_WIDTH)
    return np.asarray(Image.fromarray(cropped).resize((width, INK_HEIGHT), Image.Resampling.BICUBIC))


def _join(digits: list[NDArray[np.uint8]], spacing: int) -> NDArray[np.uint8]:
    starts = [MARGIN]
    for digit in digits[:-1]:
        starts.append(starts[-1] + max(1, digit.shape[1] + spacing))
    ends = [start + digit.shape[1] for start, digit in zip(starts, digits, strict=True)]
    line = np.zeros((HEIGHT, max(ends) + MARGIN), np.uint8)
    for start, end, digit in zip(starts, ends, digits, strict=True):
        place = line[MARGIN : MARGIN + INK_HEIGHT, start:end]
        np.maximum(place, digit, out=place)
    return line
