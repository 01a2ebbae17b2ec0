"""From uint8 images to bytes that people ask for: one function a format.

Must not know of HTTP or of generators' insides. A new format is one function and one row of
:data:`FORMATS`. The same picture gives the same bytes.
"""

import base64
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.uint8]  # [n, 28, 28]

GUTTER_PX = 2  # between the images of a grid
GUTTER_GREY = 96
WEBP_MAX_PX = 16383  # a side; the format's own limit


class ImpossiblePictureError(Exception):
    """The format cannot hold this picture; the message says its bound."""


@dataclass(frozen=True)
class Picture:
    """Images of one request, and how to show them."""

    images: Images
    arch: str
    version: int
    seed: int  # of the first image; image i has seed + i
    sha256: str  # of the weights
    scale: int  # image pixels → picture pixels
    columns: int | None  # None: near-square

    def facts(self, index: int = 0) -> dict[str, str]:
        """What a file of this picture says of itself."""
        return {
            "arch": self.arch,
            "version": str(self.version),
            "seed": str(self.seed + index),
            "sha256": self.sha256,
        }


def png(picture: Picture) -> bytes:
    """A grid; arch, version, seed and the weights' sum stand in its text chunks."""
    return _png(grid(picture.images, picture.columns, picture.scale), picture.facts())


def webp(picture: Picture) -> bytes:
    """A grid, lossless.

    Raises:
        ImpossiblePictureError: a side is longer than the format allows.
    """
    pixels = grid(picture.images, picture.columns, picture.scale)
    if max(pixels.shape) > WEBP_MAX_PX:
        raise ImpossiblePictureError(
            f"a WebP picture has at most {WEBP_MAX_PX} px a side, not {max(pixels.shape)}: "
            "lower scale, other columns, or image/png"
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True)
    return file.getvalue()


def zip_archive(picture: Picture) -> bytes:
    """One PNG an image, named by architecture, version and seed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for index, image in enumerate(picture.images):
            name = f"{picture.arch}-v{picture.version}-seed{picture.seed + index}.png"
            archive.writestr(zipfile.ZipInfo(name), _png(_enlarged(image, picture.scale), picture.facts(index)))
    return file.getvalue()


def json_document(picture: Picture) -> bytes:
    """Every image as a base64 PNG with its seed."""
    document = {
        "arch": picture.arch,
        "version": picture.version,
        "seed": picture.seed,
        "sha256": picture.sha256,
        "images": [
            {
                "seed": picture.seed + index,
                "png": base64.b64encode(_png(_enlarged(image, picture.scale), picture.facts(index))).decode(),
            }
            for index, image in enumerate(picture.images)
        ],
    }
    return json.dumps(document).encode()


FORMATS: dict[str, Callable[[Picture], bytes]] = {
    "image/png": png,
    "image/webp": webp,
    "application/zip": zip_archive,
    "application/json": json_document,
}


def grid(images: Images, columns: int | None = None, scale: int = 1) -> NDArray[np.uint8]:
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


def _enlarged(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """``[h, w]``."""
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _png(pixels: NDArray[np.uint8], facts: Mapping[str, str]) -> bytes:
    """``[h, w]`` → a grey PNG (W3C PNG, third edition) with ``facts`` as text.

    Pillow writes the same pixels in ten times the time and more bytes: rows without a filter, and runs
    of equal bytes instead of a search for repetitions, suit ink on a dark ground.
    """
    height, width = pixels.shape
    lines = np.zeros((height, 1 + width), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = pixels
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    chunks = [
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),  # 8 bits, grey, not interlaced
        *(_chunk(b"tEXt", f"{key}\0{value}".encode("latin-1")) for key, value in facts.items()),
        _chunk(b"IDAT", deflate.compress(lines.data) + deflate.flush()),
        _chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
