"""From images to the bytes that people ask for: one function a format.

Must not know of HTTP, nor how images are drawn. A new format is one function and one row of
:data:`FORMATS`. The same picture gives the same bytes.
"""

import base64
import io
import json
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.png import encode_png
from models.manifest import Manifest

Images = NDArray[np.uint8]  # [n, 28, 28]
Encode = Callable[[Images], bytes]

GUTTER_PX = 2  # between the images of a grid
GUTTER_GREY = 96
WEBP_MAX_PX = 16383  # a side; the format's own limit


class ImpossiblePictureError(Exception):
    """The format cannot hold this picture; the message says its bound. Lower the scale, or take another format."""


@dataclass(frozen=True)
class Picture:
    """Images, whose they are, and how to show them."""

    images: Images
    seeds: Sequence[int]  # one an image
    manifest: Manifest  # of the version that drew them
    scale: int = 1  # image pixels → picture pixels
    columns: int | None = None  # None: near-square

    def describe(self, index: int = 0) -> dict[str, str]:
        """What the file of an image, or of all of them, says of itself."""
        return {
            "arch": self.manifest.arch,
            "version": str(self.manifest.version),
            "seed": str(self.seeds[index]),
            "sha256": self.manifest.weights_sha256,
        }


def render_png(picture: Picture) -> bytes:
    """A grid; arch, version, seed and the weights' sum stand in its text chunks."""
    return encode_png(make_grid(picture.images, picture.columns, picture.scale), picture.describe())


def render_webp(picture: Picture) -> bytes:
    """A grid, lossless.

    Raises:
        ImpossiblePictureError: a side is longer than the format allows.
    """
    pixels = make_grid(picture.images, picture.columns, picture.scale)
    if max(pixels.shape) > WEBP_MAX_PX:
        raise ImpossiblePictureError(
            f"a WebP picture has at most {WEBP_MAX_PX} px a side, not {max(pixels.shape)}: "
            "lower scale, other columns, or image/png"
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True)
    return file.getvalue()


def render_zip(picture: Picture) -> bytes:
    """One PNG an image, named by architecture, version and seed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for index, seed in enumerate(picture.seeds):
            name = f"{picture.manifest.arch}-v{picture.manifest.version}-seed{seed}.png"
            archive.writestr(zipfile.ZipInfo(name), _render_image(picture, index))
    return file.getvalue()


def render_json(picture: Picture) -> bytes:
    """Every image as a base64 PNG with its seed."""
    document = {
        "arch": picture.manifest.arch,
        "version": picture.manifest.version,
        "seed": picture.seeds[0],
        "sha256": picture.manifest.weights_sha256,
        "images": [
            {"seed": seed, "png": base64.b64encode(_render_image(picture, index)).decode()}
            for index, seed in enumerate(picture.seeds)
        ],
    }
    return json.dumps(document).encode()


FORMATS: dict[str, Callable[[Picture], bytes]] = {
    "image/png": render_png,
    "image/webp": render_webp,
    "application/zip": render_zip,
    "application/json": render_json,
}


def make_encoder(
    media_type: str, manifest: Manifest, seeds: Sequence[int], *, scale: int = 1, columns: int | None = None
) -> Encode:
    """A function that makes a file of ``media_type`` (a row of :data:`FORMATS`) of the images of ``seeds``."""
    render = FORMATS[media_type]
    return lambda images: render(Picture(images, seeds, manifest, scale, columns))


def make_grid(images: Images, columns: int | None = None, scale: int = 1) -> NDArray[np.uint8]:
    """``[n, h, w]`` → one picture, row by row, with gutters between the images."""
    n, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    cell_h, cell_w = height * scale + GUTTER_PX, width * scale + GUTTER_PX
    rows, rest = divmod(n, columns)
    picture = np.full(((rows + bool(rest)) * cell_h, columns * cell_w), GUTTER_GREY, np.uint8)
    cells = picture.reshape(-1, cell_h, columns, cell_w).swapaxes(1, 2)[..., :-GUTTER_PX, :-GUTTER_PX]
    pixels = cells.reshape(*cells.shape[:2], height, scale, width, scale)  # a view of the picture
    pixels[:rows] = images[: n - rest].reshape(rows, columns, height, 1, width, 1)
    pixels[rows:, :rest] = images[n - rest :, :, None, :, None]
    return picture[:-GUTTER_PX, :-GUTTER_PX]


def _render_image(picture: Picture, index: int) -> bytes:
    """One image as a PNG of its own."""
    enlarged = picture.images[index].repeat(picture.scale, axis=0).repeat(picture.scale, axis=1)
    return encode_png(enlarged, picture.describe(index))
