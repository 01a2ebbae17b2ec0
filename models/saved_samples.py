"""Read a pickled list of numpy arrays: the images of the same latents after each epoch.

The pickle is only described (:mod:`models.pickles`); the arrays are made of its bytes here.
"""

import io
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import pickles
from models.pickles import Call, UnfitFileError

MAX_BYTES = 2**28  # of a file; the images of 100 epochs, 64 each, have 20 MB as float32
MAX_EPOCHS, MAX_IMAGES = 1_000, 1_024  # of a list; of an epoch
MAX_ALL = 100_000  # images of a list: a file may name the same bytes many times

_NEAR = 1e-3  # so far beyond its range a value may be

_CORES = ("numpy.core", "numpy._core")  # before numpy 2, and since
_MAKERS = {f"{core}.multiarray._reconstruct" for core in _CORES}
_FROM_BUFFER = {f"{core}.numeric._frombuffer" for core in _CORES}
_NAMES = {*_MAKERS, *_FROM_BUFFER, "numpy.ndarray", "numpy.dtype", "_codecs.encode"}

_TYPES = ("u1", "f2", "f4", "f8")


def read(data: bytes) -> Tensor:
    """The images in a pickled list, ``[epochs, n, 28, 28]`` uint8.

    Each array is an epoch: ``[n, 28, 28]``, ``[n, 1, 28, 28]`` or ``[n, 784]``, all of one ``n``. Their values
    are uint8, or floats in 0…1; floats in −1…1 if there is a negative one.

    Raises:
        UnfitFileError: it is no such list.
    """
    if not data:
        raise UnfitFileError("it is empty")
    found = pickles.read(io.BytesIO(data), _NAMES)
    if not isinstance(found, list) or not 0 < len(found) <= MAX_EPOCHS:
        raise UnfitFileError(f"it is no list of 1 to {MAX_EPOCHS:,} arrays, one an epoch")
    arrays = []
    for number, item in enumerate(found, start=1):
        try:
            arrays.append(_read_epoch(item))
            if sum(map(len, arrays)) > MAX_ALL:
                raise UnfitFileError(f"with it, the list has more than {MAX_ALL:,} images")
        except (UnfitFileError, ValueError, TypeError) as error:
            reason = error if isinstance(error, UnfitFileError) else "it is damaged"
            raise UnfitFileError(f"its item {number}: {reason}") from error
    if len({(len(array), array.dtype.kind) for array in arrays}) > 1:
        raise UnfitFileError("its arrays differ in type or in their number of images")
    return torch.from_numpy(_scale(arrays))


def _read_epoch(item: object) -> NDArray[Any]:
    """One array, ``[n, 28, 28]``."""
    match item:
        case Call(path, _, (int(_), tuple(shape), dtype, fortran, raw)) if path in _MAKERS:
            order = "F" if fortran else "C"
        case Call(path, (raw, dtype, tuple(shape), str(order), *_)) if path in _FROM_BUFFER:
            pass
        case _:
            raise UnfitFileError("it is no array of numbers")
    n = shape[0] if shape and type(shape[0]) is int else 0
    if shape not in ((n, 28, 28), (n, 1, 28, 28), (n, 784)) or not 0 < n <= MAX_IMAGES:
        raise UnfitFileError(f"it must have the shape [n, 28, 28], [n, 1, 28, 28] or [n, 784], n at most {MAX_IMAGES}")
    form = _read_type(dtype)
    content = _read_bytes(raw)
    if len(content) != math.prod(shape) * form.itemsize or order not in ("C", "F"):
        raise UnfitFileError("it is damaged: its bytes do not fill its shape")
    array = np.frombuffer(content, form).reshape(shape, order="F" if order == "F" else "C")
    return array.reshape(n, 28, 28)


def _read_type(dtype: object) -> np.dtype[Any]:
    match dtype:
        case Call("numpy.dtype", (str(code), *_), (int(_), str(order), *_)) if code in _TYPES and order in "<>|=":
            return np.dtype(f"{order}{code}")
    raise UnfitFileError("its values must be uint8, float16, float32 or float64")


def _read_bytes(raw: object) -> bytes | bytearray:
    """Bytes are themselves; the older protocols have them as text."""
    match raw:
        case bytes() | bytearray():
            return raw
        case Call("_codecs.encode", (str(text), "latin1" | "latin-1")):
            return text.encode("latin-1")
    raise UnfitFileError("it is damaged: it has no bytes")


def _scale(arrays: list[NDArray[Any]]) -> NDArray[np.uint8]:
    """The grey levels of arrays of one type."""
    if arrays[0].dtype == np.uint8:
        return np.stack(arrays)
    low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    if not -1 - _NEAR <= low <= high <= 1 + _NEAR or not all(np.isfinite(array).all() for array in arrays):
        raise UnfitFileError(f"its values are in {low:.4g}…{high:.4g}: they must be in 0…1 or in −1…1")
    offset, size = (-1.0, 2.0) if low < -_NEAR else (0.0, 1.0)
    scaled = [((array.astype(np.float32) - offset) / size).clip(0, 1) * 255 for array in arrays]
    return np.stack([level.round().astype(np.uint8) for level in scaled])
