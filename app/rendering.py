"""From images to the bytes of a file: one function per format.

Must not know of HTTP, or how images are drawn. A new format is one function and one row of
:data:`FORMATS`. The same picture always gives the same bytes.
"""

import base64
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app import lines
from app.png import encode_png
from models import readers, seed_index
from models.manifest import Manifest
from models.readers import Reading
from models.seed_index import SeedIndex

Images = NDArray[np.uint8]  # [n, 28, 28], or [n, height, width] of lines

GUTTER_PX = 2  # between the images of a grid
GUTTER_GREY = 96
WEBP_MAX_PX = 16383  # per side; the format's own limit
STRIP_PIXELS = 2**20  # of a grid that are in memory at a time
LARGE_PIXELS = 2**20  # a picture of more takes tens of milliseconds to encode
LARGE_DIGITS = 32  # the same, if each digit is read, or put into a line


class ImpossiblePictureError(Exception):
    """The picture is too large for its format; lower the scale, change the columns, or use another format."""

    def __init__(self, message: str, bound: int) -> None:
        super().__init__(message)
        self.bound = bound  # pixels, in all or per side


@dataclass(frozen=True)
class Line:
    """How an image of a picture is made of several digits."""

    length: int  # digits
    spacing: int  # pixels


@dataclass(frozen=True)
class Picture:
    """Images, the version that drew them, and how to show them."""

    images: Images
    seeds: Sequence[int]  # of each digit; of all images, the same number each
    manifest: Manifest  # of that version
    scale: int = 1  # picture pixels per image pixel
    columns: int | None = None  # None: near-square
    reading: Reading | None = None  # what each digit is, for the formats that say it

    def get_part(self, index: int) -> slice:
        """The digits of image ``index``."""
        length = len(self.seeds) // len(self.images)
        return slice(index * length, (index + 1) * length)

    def describe(self, part: slice = slice(None)) -> dict[str, str]:
        """The facts that a file holds about these digits, or about all of them."""
        seeds = self.seeds[part]
        facts = describe(self.manifest, seed=str(seeds[0]))
        return facts if _are_consecutive(seeds) else {**facts, "seeds": join_seeds(seeds, ",")}


def describe(manifest: Manifest, **facts: str) -> dict[str, str]:
    """The facts that a file holds about the version that drew it, and others."""
    return {"arch": manifest.arch, "version": str(manifest.version), **facts, "sha256": manifest.weights_sha256}


def render_png(picture: Picture) -> bytes:
    """A grid. Its text chunks hold arch, version, first seed and the SHA-256 of the weights.

    They hold all seeds if those do not follow each other.
    """
    return encode_grid(picture.images, picture.columns, picture.scale, picture.describe())


def render_webp(picture: Picture) -> bytes:
    """A grid, lossless, with an effort that takes a second for 50 million pixels, not 2 to 7."""
    file = io.BytesIO()
    pixels = make_grid(picture.images, picture.columns, picture.scale)
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, method=1, quality=0)
    return file.getvalue()


def render_zip(picture: Picture) -> bytes:
    """One PNG per image, named by architecture, version and seeds."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for index in range(len(picture.images)):
            seeds = join_seeds(picture.seeds[picture.get_part(index)], "-")
            name = f"{picture.manifest.arch}-v{picture.manifest.version}-seed{seeds}.png"
            archive.writestr(zipfile.ZipInfo(name), _render_image(picture, index))
    return file.getvalue()


def render_json(picture: Picture) -> bytes:
    """Every image as a base64 PNG, with the seed of each digit, what it is, and how sure that is."""
    assert picture.reading
    digits = [
        {"seed": seed, "digit": digit, "confidence": readers.find_confidence(level)}
        for seed, digit, level in zip(picture.seeds, *(values.tolist() for values in picture.reading), strict=True)
    ]
    images = []
    for index in range(len(picture.images)):
        shown = digits[picture.get_part(index)]
        facts = shown[0] if len(shown) == 1 else {"digits": shown}
        images.append({**facts, "png": base64.b64encode(_render_image(picture, index)).decode()})
    document = {
        "arch": picture.manifest.arch,
        "version": picture.manifest.version,
        "seed": picture.seeds[0],
        "sha256": picture.manifest.weights_sha256,
        "images": images,
    }
    return json.dumps(document).encode()


@dataclass(frozen=True)
class Format:
    """How to make a file of one media type."""

    render: Callable[[Picture], bytes]
    extension: str  # of its name
    max_pixels: int
    max_side: int
    says_digits: bool = False  # it needs a reading


# fmt: off
FORMATS: Mapping[str, Format] = {
    #                           function     extension  pixels  per side
    "image/png":        Format(render_png,  ".png",    2**26,  2**31 - 1),
    "image/webp":       Format(render_webp, ".webp",   2**22,  WEBP_MAX_PX), # its encoder takes 26 bytes per pixel
    "application/zip":  Format(render_zip,  ".zip",    2**26,  2**31 - 1),
    "application/json": Format(render_json, ".json",   2**26,  2**31 - 1, says_digits=True),
}
# fmt: on


@dataclass(frozen=True)
class Encoder:
    """From the images of ``seeds`` to a file of ``media_type``, a row of :data:`FORMATS`."""

    media_type: str
    manifest: Manifest  # of the version that draws them
    seeds: Sequence[int]
    scale: int = 1
    columns: int | None = None
    line: Line | None = None  # of which each image consists; None: it is one digit
    index: SeedIndex | None = None  # what is known of that version's digits

    def __call__(self, images: Images) -> bytes:
        reading = self._read(images) if self._says_digits else None
        if self.line:
            images = lines.compose(images, self.line.length, self.line.spacing)
        picture = Picture(images, self.seeds, self.manifest, self.scale, self.columns, reading)
        return FORMATS[self.media_type].render(picture)

    @property
    def _says_digits(self) -> bool:
        return FORMATS[self.media_type].says_digits

    @property
    def _is_known(self) -> bool:
        return self.index is not None and max(self.seeds) < seed_index.SEEDS

    def _read(self, images: Images) -> Reading:
        if self.index and self._is_known:
            return self.index.digits[self.seeds], self.index.levels[self.seeds]
        return readers.read(images)

    def _measure(self) -> tuple[int, int]:
        return measure_picture(len(self.seeds), self.columns, self.scale, self.line)

    def require_possible(self) -> None:
        """Check before drawing whether the format can hold the picture.

        Raises:
            ImpossiblePictureError: it cannot.
        """
        require_possible(self.media_type, self._measure())

    def is_large(self) -> bool:
        """Whether encoding takes so long that others should not wait for it."""
        height, width = self._measure()
        is_slow = self.line is not None or (self._says_digits and not self._is_known)
        return height * width > LARGE_PIXELS or (is_slow and len(self.seeds) > LARGE_DIGITS)


def can_hold(media_type: str, size: tuple[int, int]) -> bool:
    """Whether :func:`require_possible` lets a picture be."""
    try:
        require_possible(media_type, size)
    except ImpossiblePictureError:
        return False
    return True


def require_possible(media_type: str, size: tuple[int, int]) -> None:
    """Check whether a format, a row of :data:`FORMATS`, can hold a picture of this height and width.

    Raises:
        ImpossiblePictureError: it cannot.
    """
    format, (height, width) = FORMATS[media_type], size
    for found, bound, of in ((height * width, format.max_pixels, ""), (max(size), format.max_side, " per side")):
        if found > bound:
            raise ImpossiblePictureError(
                f"{media_type} has at most {bound} pixels{of} here, not {found}: "
                "lower scale, change columns, or use image/png",
                bound,
            )


def measure_picture(digits: int, columns: int | None, scale: int, line: Line | None) -> tuple[int, int]:
    """Height and width in pixels of a picture of so many digits; if they stand in lines, the most that it can be."""
    if line is None:
        return measure_grid(digits, columns, scale)
    return measure_grid(digits // line.length, columns, scale, lines.measure(line.length, line.spacing))


@lru_cache  # most requests are alike
def measure_grid(n: int, columns: int | None, scale: int, image: tuple[int, ...] = (28, 28)) -> tuple[int, int]:
    """Height and width in pixels of a grid of ``n`` images, which have height and width ``image`` themselves."""
    across = _count_columns(n, columns)
    height, width = (side * scale + GUTTER_PX for side in image)
    return -(-n // across) * height - GUTTER_PX, across * width - GUTTER_PX


def encode_grid(images: Images, columns: int | None, scale: int, facts: Mapping[str, str]) -> bytes:
    """A grid as a PNG with ``facts`` in its text chunks."""
    size = measure_grid(len(images), columns, scale, images.shape[1:])
    return encode_png(size, iterate_strips(images, columns, scale), facts)


def make_grid(images: Images, columns: int | None = None, scale: int = 1) -> NDArray[np.uint8]:
    """``[n, 28, 28]`` → one picture, row by row, with gutters between the images."""
    return _make_rows(images, _count_columns(len(images), columns), scale)[:-GUTTER_PX]


def iterate_strips(images: Images, columns: int | None = None, scale: int = 1) -> Iterator[NDArray[np.uint8]]:
    """The picture of :func:`make_grid` from top to bottom, in strips of about ``STRIP_PIXELS``."""
    across = _count_columns(len(images), columns)
    height, width = measure_grid(across, across, scale, images.shape[1:])
    taken = max(1, STRIP_PIXELS // (height * width)) * across  # images per strip
    for start in range(0, len(images), taken):
        strip = _make_rows(images[start : start + taken], across, scale)
        yield strip if start + taken < len(images) else strip[:-GUTTER_PX]


def _count_columns(n: int, columns: int | None) -> int:
    return min(columns or math.ceil(math.sqrt(n)), n)


def _make_rows(images: Images, columns: int, scale: int) -> NDArray[np.uint8]:
    """Rows of ``columns`` images, with a gutter below each row."""
    n, height, width = images.shape
    cell_h, cell_w = height * scale + GUTTER_PX, width * scale + GUTTER_PX
    rows, rest = divmod(n, columns)
    picture = np.full(((rows + bool(rest)) * cell_h, columns * cell_w), GUTTER_GREY, np.uint8)
    cells = picture.reshape(-1, cell_h, columns, cell_w).swapaxes(1, 2)[..., :-GUTTER_PX, :-GUTTER_PX]
    pixels = cells.reshape(*cells.shape[:2], height, scale, width, scale)  # a view of the picture
    pixels[:rows] = images[: n - rest].reshape(rows, columns, height, 1, width, 1)
    pixels[rows:, :rest] = images[n - rest :, :, None, :, None]
    return picture[:, :-GUTTER_PX]


def _render_image(picture: Picture, index: int) -> bytes:
    """One image as a PNG of its own."""
    enlarged = picture.images[index].repeat(picture.scale, axis=0).repeat(picture.scale, axis=1)
    return encode_png(enlarged.shape, [enlarged], picture.describe(picture.get_part(index)))


def join_seeds(seeds: Sequence[int], by: str) -> str:
    """Their names, as 5,17,3."""
    return by.join(map(str, seeds))


def _are_consecutive(seeds: Sequence[int]) -> bool:
    return isinstance(seeds, range) or len(seeds) == 1
