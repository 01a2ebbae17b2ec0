"""The files of a data set: a ZIP that is written from its beginning to its end, with a few digits in memory.

A new format is one class and one row of :data:`ARCHIVES`. The same digits always give the same bytes. Must not
know how digits are drawn.
"""

import gzip
import io
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from app.png import encode_png
from app.rendering import Images
from models import mnist
from models.manifest import Manifest

Labels = NDArray[np.uint8]  # [n], 0…9

TRAIN, TEST = "train", "test"

_LEVEL = 1  # of compression: at level 6, a set is 8 % smaller and takes three times as long


class Archive:
    """A ZIP with one or two splits. For each split: ``begin``, ``add`` some digits at a time, ``end``."""

    def __init__(self, version: Manifest, splits: Mapping[str, int], has_test: bool) -> None:
        """``splits``: how many digits each has; ``has_test``: the set has test data, of which this may be no part."""
        self._version = version
        self._splits = splits
        self._has_test = has_test
        self._sink = _Sink()
        self._zip = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)

    def begin(self, split: str) -> None:
        """The digits that follow are of this split."""

    def add(self, images: Images, labels: Labels, seeds: list[int]) -> None:
        """Take the next digits of the split."""
        raise NotImplementedError

    def end(self) -> None:
        """The split is complete."""

    def finish(self, texts: Mapping[str, str]) -> None:
        """Add these files, and end the ZIP."""
        for name, text in texts.items():
            self._zip.writestr(_name(name), text.encode())
        self._zip.close()

    def take(self) -> bytes:
        """What was written since the last call."""
        return self._sink.take()


_IDX_NAMES = {TRAIN: (mnist.TRAIN_IMAGES, mnist.TRAIN_LABELS), TEST: (mnist.TEST_IMAGES, mnist.TEST_LABELS)}


class IdxArchive(Archive):
    """MNIST's own four files: ``train-images-idx3-ubyte.gz`` and so on."""

    def begin(self, split: str) -> None:
        self._split = split
        self._labels: list[bytes] = [mnist.make_labels_header(self._splits[split])]
        self._open = ExitStack()
        member = self._open.enter_context(
            self._zip.open(_name(f"{_IDX_NAMES[split][0]}.gz", stored=True), "w", force_zip64=True)
        )
        self._images = self._open.enter_context(gzip.GzipFile("", "wb", _LEVEL, member, mtime=0))
        self._images.write(mnist.make_images_header(self._splits[split]))

    def add(self, images: Images, labels: Labels, seeds: list[int]) -> None:
        self._images.write(images.tobytes())
        self._labels.append(labels.tobytes())

    def end(self) -> None:
        self._open.close()
        packed = gzip.compress(b"".join(self._labels), _LEVEL, mtime=0)
        self._zip.writestr(_name(f"{_IDX_NAMES[self._split][1]}.gz", stored=True), packed)


class NpzArchive(Archive):
    """``x_train``, ``y_train``, ``x_test`` and ``y_test``, as Keras has MNIST."""

    def begin(self, split: str) -> None:
        self._split = split
        self._labels: list[Labels] = []
        self._open = ExitStack()
        self._images = self._open.enter_context(self._zip.open(_name(f"x_{split}.npy"), "w", force_zip64=True))
        shape = (self._splits[split], 28, 28)
        facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._images, facts)

    def add(self, images: Images, labels: Labels, seeds: list[int]) -> None:
        self._images.write(images.tobytes())
        self._labels.append(labels)

    def end(self) -> None:
        self._open.close()
        file = io.BytesIO()
        np.lib.format.write_array(file, np.concatenate([np.empty(0, np.uint8), *self._labels]), allow_pickle=False)
        self._zip.writestr(_name(f"y_{self._split}.npy"), file.getvalue())


class PngArchive(Archive):
    """Folders ``0`` … ``9`` with a PNG for each digit; if the set has test data, in folders ``train`` and ``test``."""

    def begin(self, split: str) -> None:
        self._folder = f"{split}/" if self._has_test else ""

    def add(self, images: Images, labels: Labels, seeds: list[int]) -> None:
        version = self._version
        facts = {"arch": version.arch, "version": str(version.version), "sha256": version.weights_sha256}
        for image, label, seed in zip(images, labels.tolist(), seeds, strict=True):
            png = encode_png(image.shape, [image], {**facts, "seed": str(seed), "label": str(label)})
            name = f"{self._folder}{label}/{version.arch}-v{version.version}-seed{seed}.png"
            self._zip.writestr(_name(name, stored=True), png)


# fmt: off
ARCHIVES: Mapping[str, type[Archive]] = {  # by the names of the formats
    "idx": IdxArchive,
    "png": PngArchive,
    "npz": NpzArchive,
}
# fmt: on


def _name(name: str, stored: bool = False) -> zipfile.ZipInfo:
    """A member without a date; ``stored``: its content is compressed already."""
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


class _Sink:
    """A file that can only be written, and is emptied by ``take``."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """There is nothing to do."""

    def close(self) -> None:
        """There is nothing to do."""

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken
