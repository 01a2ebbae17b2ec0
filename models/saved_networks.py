"""Read a file of ``torch.save``: the tensors of a network, and its layers if the whole network was saved.

Both formats of torch are read, the ZIP archive and the older one. The pickle in them is only described
(:mod:`models.pickles`), and a tensor is made when it is asked for.
"""

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import pickles
from models.pickles import Call, Name, UnfitFileError

MAX_BYTES = 64 * 2**20  # of a file, and of what is in it; a network has 1.2 MB

# The layers of the six networks, and what may be around them.
_LAYERS = (
    nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.LeakyReLU, nn.Dropout,
    nn.Tanh, nn.Sigmoid,
)  # fmt: skip
_CONTAINERS = {f"{kind.__module__}.{kind.__qualname__}" for kind in (nn.Sequential, nn.DataParallel)} | {
    f"__main__.{name}" for name in ("Generator", "GeneratorWGAN", "Discriminator", "DiscriminatorWGAN")
}
_KINDS = {f"{kind.__module__}.{kind.__qualname__}": kind.__name__ for kind in _LAYERS}
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_DTYPES = {
    "torch.FloatStorage": torch.float32, "torch.DoubleStorage": torch.float64, "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16, "torch.LongStorage": torch.int64, "torch.IntStorage": torch.int32,
    "torch.ByteStorage": torch.uint8, "torch.BoolStorage": torch.bool,
}  # fmt: skip
_NAMES = {
    *_KINDS, *_CONTAINERS, *_DTYPES, _TENSOR, _PARAMETER,
    "collections.OrderedDict", "__builtin__.set", "builtins.set", "torch.device",
}  # fmt: skip

_ZIP, _OLD = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how the files of both formats begin
_MAX_WRAPPERS, _MAX_PARTS, _MAX_NAME = 3, 100, 100  # dicts around a network, modules in it, letters of a name
_MAX_NUMBER = 2**62

# What Python's ZIP reader raises for damaged archives.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError, RuntimeError,
    LookupError, OverflowError,
)  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """The numbers that tensors are made of."""

    dtype: torch.dtype
    key: str
    count: int
    read: Callable[["Storage"], bytes]


@dataclass(frozen=True)
class SavedTensor:
    """A tensor that has not been made yet: its numbers may be fewer than its shape says."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def load(self) -> Tensor:
        """The tensor, with memory of its own. Its shape should have been checked before.

        Raises:
            UnfitFileError: the numbers are missing.
        """
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if last >= self.storage.count or 0 in self.shape:
            raise UnfitFileError("it is damaged: a tensor is larger than its storage")
        data = self.storage.read(self.storage)
        if len(data) != self.storage.count * self.dtype.itemsize:
            raise UnfitFileError("it is damaged: a storage has another size than its pickle says")
        numbers = torch.frombuffer(bytearray(data), dtype=self.dtype)
        return numbers.as_strided(self.shape, self.strides, self.offset).clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class SavedLayer:
    """A layer of a network that was saved whole."""

    kind: str  # of torch.nn
    facts: Mapping[object, object]  # its attributes


@dataclass(frozen=True)
class SavedNetwork:
    """What a file says of a network."""

    tensors: Mapping[str, SavedTensor]
    layers: list[SavedLayer] | None  # in order; None: only its tensors were saved


def read(data: bytes) -> object:
    """What a file holds, as :func:`models.pickles.read` describes it; :func:`find_network` takes a network out of it.

    Raises:
        UnfitFileError: it is no file of ``torch.save``, is damaged, or names more than a network needs.
    """
    if not data:
        raise UnfitFileError("it is empty")
    if data.startswith(_ZIP):
        return _read_archive(data)
    if data.startswith(_OLD):
        return _read_old(data)
    raise UnfitFileError("it is no file of torch.save")


def find_network(found: object, keys: tuple[str, ...]) -> SavedNetwork:
    """The network in what :func:`read` has found: it itself, or what is under one of the ``keys``.

    Raises:
        UnfitFileError: there is none.
    """
    for _ in range(_MAX_WRAPPERS):
        inner = next((found[key] for key in keys if key in found), None) if isinstance(found, dict) else None
        if not isinstance(inner, dict | Call) or _find_tensor(inner):
            break
        found = inner
    if isinstance(found, Call) and found.path in _KINDS.keys() | _CONTAINERS:
        return _walk(found)
    if not isinstance(found, dict) or not found:
        raise UnfitFileError("it holds no network: save the network, or its state_dict()")
    if not any(_find_tensor(value) for value in found.values()):
        raise UnfitFileError(f"it holds no network, nor one under a key {' or '.join(keys)}")
    named = {_join("", name): value for name, value in found.items()}
    return SavedNetwork({name: _require_tensor(name, value) for name, value in named.items()}, None)


def _walk(network: Call) -> SavedNetwork:
    """The layers of a whole network in order, and its tensors by the names that its state_dict() gives them."""
    layers: list[SavedLayer] = []
    tensors: dict[str, SavedTensor] = {}
    waiting: list[tuple[str, object]] = [("", network)]
    for _ in range(_MAX_PARTS):
        if not waiting:
            return SavedNetwork(tensors, layers)
        prefix, part = waiting.pop()
        if (
            not isinstance(part, Call)
            or part.path not in _KINDS.keys() | _CONTAINERS
            or not isinstance(part.state, dict)
        ):
            raise UnfitFileError(f"its part {prefix.rstrip('.')!r} is no layer")
        facts = part.state
        own, buffers, parts = (facts.get(name) for name in ("_parameters", "_buffers", "_modules"))
        if not (isinstance(own, dict) and isinstance(buffers, dict) and isinstance(parts, dict)):
            raise UnfitFileError("it is damaged: a layer lacks its tensors")
        for name, value in {**own, **buffers}.items():
            if value is not None:
                joined = _join(prefix, name)
                tensors[joined] = _require_tensor(joined, value)
        if part.path in _KINDS:
            layers.append(SavedLayer(_KINDS[part.path], facts))
        waiting += [(_join(prefix, name) + ".", inner) for name, inner in reversed(parts.items()) if inner is not None]
    raise UnfitFileError(f"it has more than {_MAX_PARTS} parts")


def _find_tensor(value: object) -> SavedTensor | None:
    """The tensor, or the parameter, that a call would make."""
    if isinstance(value, Call) and value.path == _PARAMETER and value.args:
        value = value.args[0]
    match value:
        case Call(path, (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_)) if path == _TENSOR:
            if len(shape) == len(strides) < 8 and all(_is_number(n) for n in (offset, *shape, *strides)):
                return SavedTensor(storage, offset, shape, strides)
            raise UnfitFileError("it is damaged: a tensor has an impossible shape")
    return None


def _require_tensor(name: str, value: object) -> SavedTensor:
    tensor = _find_tensor(value)
    if tensor is None:
        raise UnfitFileError(f"{name} is no tensor: save the network, or its state_dict(), alone")
    return tensor


def _read_archive(data: bytes) -> object:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise UnfitFileError("it is a packed archive, which torch.save does not write")  # it may be a bomb
            mains = [name for name in members if name.endswith("/data.pkl")]
            if len(mains) != 1:
                raise UnfitFileError("it is a ZIP archive, but not one of torch.save")
            root = mains[0].removesuffix("data.pkl")
            if f"{root}constants.pkl" in members:
                raise UnfitFileError("it is a TorchScript archive: save the network, or its state_dict(), instead")
            if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
                raise UnfitFileError("its bytes have the order of another kind of machine")
            content = {name: archive.read(name) for name in members if name.startswith(f"{root}data")}
    except _ZIP_ERRORS as error:
        raise UnfitFileError("it is damaged or cut off") from error

    def read_storage(storage: Storage) -> bytes:
        return content.get(f"{root}data/{storage.key}", b"")

    return pickles.read(io.BytesIO(content[mains[0]]), _NAMES, lambda said: _find_storage(said, read_storage))


def _read_old(data: bytes) -> object:
    """The older format: a magic number, its version, the machine, the network, the keys of storages; then these."""
    stream, content = io.BytesIO(data), dict[str, bytes]()
    seen: dict[str, Storage] = {}

    def find(said: object) -> object:
        match said:
            case ("module", Name() as name, *_):  # a class, and its source
                return name
        storage = _find_storage(said, lambda one: content.get(one.key, b""))
        return seen.setdefault(storage.key, storage)

    _, _, machine, found, keys = (pickles.read(stream, _NAMES, find) for _ in range(5))
    if not isinstance(machine, dict) or not machine.get("little_endian") or not isinstance(keys, list):
        raise UnfitFileError("it is damaged, or its bytes have the order of another kind of machine")
    for key in keys:
        if not isinstance(key, str) or key not in seen:
            raise UnfitFileError("it is damaged: it has a storage that nothing uses")
        (count,) = struct.unpack("<q", stream.read(8).rjust(8, b"\0"))
        content[key] = stream.read(max(0, min(count, MAX_BYTES)) * seen[key].dtype.itemsize)
    return found


def _find_storage(said: object, read_storage: Callable[[Storage], bytes]) -> Storage:
    match said:
        case ("storage", Name(path), str(key), str(_), int(count), *rest) if path in _DTYPES and not any(rest):
            if _is_number(count):
                return Storage(_DTYPES[path], key, count, read_storage)
    raise UnfitFileError("it is damaged: a storage has no type or size")


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < _MAX_NUMBER


def _join(prefix: str, name: object) -> str:
    """The name of a part, as state_dict() has it."""
    if not isinstance(name, str) or len(joined := prefix + name) > _MAX_NAME or not joined.isprintable():
        raise UnfitFileError("it has a part whose name is no text, or too long: save the network, or its state_dict()")
    return joined
