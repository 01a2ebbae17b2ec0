"""The images that lie in files: samples of versions, and real digits. What was read last stays unpacked.

For one thread: that of :class:`app.studio.Studio`. A page that steps through the epochs of a version asks for the
same file again and again, and unpacking takes a tenth of a second.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.entries import Entry, NotNowError, UnknownVersionError
from app.rendering import Images
from models import mnist, versions
from models.manifest import SAMPLES, InvalidVersionError

KEPT_BYTES = 64 << 20  # of samples, unpacked; those of 100 epochs have 5 MB

Key = tuple[str, int, str]  # architecture, number, and the SHA-256 of the file


class Album:
    """Reads images, and keeps the real ones and those of the last few versions."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._samples: OrderedDict[Key, Images] = OrderedDict()  # the last one was asked for last
        self._real: tuple[Images, str] | None = None

    def read_samples(self, entry: Entry) -> Images:
        """The images of a version's fixed latents after each epoch, ``[epochs, n, 28, 28]``.

        Raises:
            UnknownVersionError: they are damaged.
            NotNowError: they cannot be read just now.
        """
        with _explain(entry):
            assert entry.manifest
            listed = entry.manifest.files.get(SAMPLES)
            key = entry.arch, entry.version, listed.sha256 if listed else ""
            if key not in self._samples:
                self._samples[key] = _read_images(entry.folder)
                while len(self._samples) > 1 and sum(kept.nbytes for kept in self._samples.values()) > KEPT_BYTES:
                    self._samples.popitem(last=False)
            self._samples.move_to_end(key)
            return self._samples[key]

    def read_history(self, entry: Entry) -> list[dict[str, Any]]:
        """The record of each epoch of a version, in order; empty if it was imported.

        Raises:
            UnknownVersionError, NotNowError: as :meth:`read_samples`.
        """
        with _explain(entry):
            return versions.read_history(entry.folder)

    def read_real(self) -> tuple[Images, str]:
        """The real test images ``[n, 28, 28]``, and the SHA-256 of their file. They are read once.

        Raises:
            DatasetError: they are missing or damaged.
        """
        if self._real is None:
            images, found = mnist.load_summed(self._data_dir, mnist.TEST_IMAGES)
            self._real = images.numpy(), found
        return self._real


def _read_images(folder: Path) -> Images:
    images: Images = versions.read_samples(folder).numpy()
    if images.ndim != 4 or images.shape[2:] != (28, 28) or images.dtype != "uint8" or not images.size:
        raise InvalidVersionError(f"{SAMPLES} does not hold images of 28 × 28 pixels")
    return images


@contextmanager
def _explain(entry: Entry) -> Iterator[None]:
    """Turn the errors of a version's files into those that say which version it is."""
    name = f"version {entry.version} of {entry.arch}"
    try:
        yield
    except InvalidVersionError as error:
        what = f"is damaged: {error}" if versions.has_manifest(entry.folder) else "was removed"
        raise UnknownVersionError(f"{name} {what}") from error
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no memory"
        raise NotNowError(f"{name} could not be read: {reason}; try again later") from error
