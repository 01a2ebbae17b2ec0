"""Pictures one after the other, as a WebP that begins again at its end.

Must not know of HTTP, or what the pictures show.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.rendering import WEBP_MAX_PX, ImpossiblePictureError

MAX_PIXELS = 2**26  # of all frames together; they take a second


def choose_frames(count: int, most: int) -> list[int]:
    """At most ``most`` of the indices 0 … ``count`` − 1, evenly spread; the first and the last are among them."""
    return [round(index) for index in np.linspace(0, count - 1, min(count, most))]


def require_possible(frames: int, size: tuple[int, int]) -> None:
    """Check before drawing whether so many frames of this height and width make an animation.

    Raises:
        ImpossiblePictureError: they do not.
    """
    pixels = frames * size[0] * size[1]
    for found, bound, of in ((pixels, MAX_PIXELS, "in all frames"), (max(size), WEBP_MAX_PX, "per side")):
        if found > bound:
            raise ImpossiblePictureError(
                f"an animation has at most {bound} pixels {of} here, not {found}: lower scale", bound
            )


def encode_animation(frames: Sequence[NDArray[np.uint8]], milliseconds: Sequence[int]) -> bytes:
    """Grey pictures ``[height, width]`` of one size → a lossless WebP that loops. Each is shown so many milliseconds.

    Frames that look alike become one, which is shown as long as they together.
    """
    first, *rest = (Image.fromarray(frame) for frame in frames)
    file = io.BytesIO()
    first.save(
        file, "WEBP", save_all=True, append_images=rest, duration=list(milliseconds), loop=0,
        lossless=True, method=0, quality=0,
    )  # fmt: skip
    return file.getvalue()
