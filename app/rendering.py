"""From images to the bytes of a file: one function per format.

Must not know of HTTP, or how images are drawn. A new format is one function and one row of
:data:`FORMATS`. The same picture always gives the same bytes.
"""

import base64
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
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
WEBP_MAX_PX = 16383  # per side; the format's own limit


class ImpossiblePictureError(Exception):
    """The picture is too large for its format; lower the scale, change the columns, or use another format."""


@dataclass(frozen=True)
class Picture:
    """Images, the version that drew them, and how to show them."""

    images: Images
    seeds: Sequence[int]  # one per image
    manifest: Manifest  # of that version
    scale: int = 1  # picture pixels per image pixel
    columns: int | None = None  # None: near-square

    def describe(self, index: int = 0) -> dict[str, str]:
        """The facts that a file holds about image ``index``, or about a whole grid (index 0)."""
        return {
            "arch": self.manifest.arch,
            "version": str(self.manifest.version),
            "seed": str(self.seeds[index]),
            "sha256": self.manifest.weights_sha256,
        }


def render_png(picture: Picture) -> bytes:
    """A grid. Its text chunks hold arch, version, first seed and the SHA-256 of the weights."""
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
            "lower scale, change columns, or use image/png"
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True)
    return file.getvalue()


def render_zip(picture: Picture) -> bytes:
    """One PNG per image, named by architecture, version and seed."""
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


FORMATS: Mapping[str, Callable[[Picture], bytes]] = {
    "image/png": render_png,
    "image/webp": render_webp,
    "application/zip": render_zip,
    "application/json": render_json,
}

EXTENSIONS: Mapping[str, str] = {  # of a file's name → the media type; not all systems know WebP's
    ".png": "image/png",
    ".webp": "image/webp",
    ".zip": "application/zip",
    ".json": "application/json",
}


def make_encoder(
    media_type: str, manifest: Manifest, seeds: Sequence[int], *, scale: int = 1, columns: int | None = None
) -> Encode:
    """A function from the images of ``seeds`` to a file of ``media_type``, a row of :data:`FORMATS`."""
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
