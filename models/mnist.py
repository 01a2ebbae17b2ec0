"""MNIST as one uint8 tensor, checked against its published sums, and shuffled batches of it.

Reads the four gzip-compressed IDX files under their published names, so a folder that another
tool has downloaded works too. So does another set under the same names, as Fashion-MNIST, if no file
of it is MNIST's. Knows nothing of training.
"""

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported where it is used: the worker's parent process does without its 150 MB
    from torch import Tensor

TRAIN_IMAGES = "train-images-idx3-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"

# SHA-256 of the uncompressed files: the compressed ones differ from mirror to mirror.
SHA256 = {
    TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801  # unsigned bytes, in three dimensions and in one

MIN_IMAGES = 1_000  # of a file: the metrics compare so many
_MAX_BYTES = 2**31  # of a file, unpacked: 2.7 million images

# Big-endian int32: magic number, images, rows, columns; magic number, labels.
_IMAGES_HEADER_BYTES, _LABELS_HEADER_BYTES = 16, 8


class DatasetError(Exception):
    """The data set is missing or damaged; the message says what to do."""


def check(data_dir: Path) -> None:
    """Check that the files that a training needs are there; their content is checked when they are loaded.

    Raises:
        DatasetError: one is missing.
    """
    for name in (TRAIN_IMAGES, TEST_IMAGES):
        if not _locate(data_dir, name).is_file():
            raise _make_missing(data_dir, name)


def load(data_dir: Path, name: str = TRAIN_IMAGES) -> "Tensor":
    """The images of one file: ``[n, 28, 28]`` uint8, 0 is background, 255 is ink.

    Raises:
        DatasetError: the file is missing, unreadable, damaged, or has too few images.
    """
    return load_summed(data_dir, name)[0]


def load_summed(data_dir: Path, name: str = TRAIN_IMAGES) -> tuple["Tensor", str]:
    """As :func:`load`, and the SHA-256 of the file, uncompressed.

    Raises:
        DatasetError: as :func:`load`.
    """
    import torch

    raw, found = _read(data_dir, name)
    path = _locate(data_dir, name)
    magic, n, rows, columns = struct.unpack_from(">4i", raw.ljust(_IMAGES_HEADER_BYTES, b"\0"))
    if (magic, rows, columns) != (_IMAGES_MAGIC, 28, 28) or len(raw) != _IMAGES_HEADER_BYTES + n * 28 * 28:
        raise DatasetError(f"{path} is not in MNIST's format: unsigned bytes, images of 28 × 28 pixels")
    if n < MIN_IMAGES:
        raise DatasetError(f"{path} has {n} images; at least {MIN_IMAGES:,} are needed")
    pixels = torch.frombuffer(raw, dtype=torch.uint8, offset=_IMAGES_HEADER_BYTES)
    return pixels.view(n, 28, 28), found


def load_labels(data_dir: Path, name: str = TRAIN_LABELS) -> "Tensor":
    """The labels of one file: ``[n]`` int64 in 0…9, in the order of its images.

    Raises:
        DatasetError: as :func:`load`.
    """
    import torch

    raw, _ = _read(data_dir, name)
    magic, n = struct.unpack_from(">2i", raw.ljust(_LABELS_HEADER_BYTES, b"\0"))
    if (
        magic != _LABELS_MAGIC
        or len(raw) != _LABELS_HEADER_BYTES + n
        or max(raw[_LABELS_HEADER_BYTES:], default=10) > 9
    ):
        raise DatasetError(f"{_locate(data_dir, name)} is not in MNIST's format: unsigned bytes, labels of 0 to 9")
    return torch.frombuffer(raw, dtype=torch.uint8, offset=_LABELS_HEADER_BYTES).long()


def make_images_header(n: int) -> bytes:
    """The first bytes of an IDX file of ``n`` images; their pixels follow."""
    return struct.pack(">4i", _IMAGES_MAGIC, n, 28, 28)


def make_labels_header(n: int) -> bytes:
    """The first bytes of an IDX file of ``n`` labels; a byte for each follows."""
    return struct.pack(">2i", _LABELS_MAGIC, n)


def iterate_batches(images: "Tensor", order: "Tensor", size: int) -> Iterator["Tensor"]:
    """Batches of the images in ``order`` (their indices), each ``[size, 28, 28]`` in −1…1.

    ``images`` is ``[n, 28, 28]`` uint8. A last partial batch is dropped. Each batch is scaled when it
    is taken, so the data set needs only a quarter of its float size.
    """
    for start in range(0, len(order) - size + 1, size):
        yield scale(images[order[start : start + size]])


def scale(images: "Tensor") -> "Tensor":
    """0…255 uint8 → −1…1 float32, of the same shape."""
    return images.float().mul_(2 / 255).sub_(1)


def _read(data_dir: Path, name: str) -> tuple[bytearray, str]:
    """The content of a file, uncompressed, and its SHA-256."""
    raw = _unpack(data_dir, name)
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA256[name]:
        _require_other_set(data_dir, name, found)
    return bytearray(raw), found


def _require_other_set(data_dir: Path, name: str, found: str) -> None:
    """A file that is not MNIST's belongs to another set if none of the files beside it is MNIST's."""
    for other, expected in SHA256.items():
        is_there = other != name and _locate(data_dir, other).exists()
        if is_there and hashlib.sha256(_unpack(data_dir, other)).hexdigest() == expected:
            raise DatasetError(
                f"{_locate(data_dir, name)} is not MNIST's, but {other} beside it is: "
                f"its sha256 is {found}, expected {SHA256[name]}"
            )


def _unpack(data_dir: Path, name: str) -> bytes:
    path = _locate(data_dir, name)
    try:
        with gzip.open(path) as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise _make_missing(data_dir, name) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if len(raw) > _MAX_BYTES:
        raise DatasetError(f"{path} has more than {_MAX_BYTES:,} bytes unpacked")
    return raw


def _locate(data_dir: Path, name: str) -> Path:
    return data_dir / f"{name}.gz"


def _make_missing(data_dir: Path, name: str) -> DatasetError:
    path = _locate(data_dir, name)
    return DatasetError(f"{path} is missing: put MNIST's gzip files there or name their folder in DIGITS_DATA_DIR")
