"""Networks and images that others saved, each made as they make them: by tests/foreign.py, run as a script."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models import importing, saved_networks, versions
from models.archs import ARCHS
from models.manifest import DISCRIMINATOR, FILES, InvalidVersionError, Manifest
from models.pickles import MAX_STEPS, UnfitFileError
from tests.versions import NEXT, publish

FORMS = [
    *((arch, form) for arch in ARCHS for form in ("whole", "whole_old", "weights", "weights_old", "gpu", "gpu_old")),
    *(("vanilla", form) for form in (
        "parallel", "parallel_weights", "other_prefix", "in_state_dict", "in_state_dict_old", "in_generator",
        "in_model", "whole_in_dict", "plain_dict", "double", "half", "transposed", "views",
    )),
]  # fmt: skip
D_FORMS = [
    (arch, f"{name}{form}")
    for arch, name in (("vanilla", ""), ("dcgan", ""), ("dcgan", "_inner"), ("wgan", ""), ("wgan", "_open"))
    for form in ("", "_old", "_weights")
]


def import_cheaply(model_dir: Path, foreign: Path, arch: str = "vanilla", discriminator: str | None = None) -> Manifest:
    networks = importing.read_networks(
        arch, foreign / f"{arch}_whole.pt", foreign / discriminator if discriminator else None
    )
    return importing.publish_networks(model_dir, networks, latents="uniform", measure=lambda G: {"fid": 9.0})


@pytest.mark.parametrize(("arch", "form"), FORMS)
def test_every_form_of_a_generator_fits(foreign: Path, arch: str, form: str) -> None:
    G = importing.read_networks(arch, foreign / f"{arch}_{form}.pt").generator
    expected = torch.load(foreign / f"{arch}_weights.pt", weights_only=True)
    assert not G.training
    for name, tensor in G.state_dict().items():
        assert tensor.dtype == expected[name].dtype
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-3 if form == "half" else 0)


@pytest.mark.parametrize(("arch", "form"), D_FORMS)
def test_every_form_of_a_discriminator_fits(foreign: Path, arch: str, form: str) -> None:
    D = importing.read_networks(arch, foreign / f"{arch}_whole.pt", foreign / f"d_{arch}{form}.pt").discriminator
    expected = torch.load(foreign / f"d_{arch}{form.removesuffix('_old').removesuffix('_weights')}_weights.pt")
    assert D is not None
    ours = D.state_dict()
    assert len(ours) == len(expected)
    assert all(tensor.equal(its) for tensor, its in zip(ours.values(), expected.values(), strict=True))


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("slope", "layer 3, LeakyReLU, has negative_slope 0.1, expected 0.2"),
        ("stride", "layer 4, ConvTranspose2d, has stride 1x1, expected 2x2"),
        ("output_padding", "layer 4, ConvTranspose2d, has output_padding 1x1, expected 0x0"),
        ("eps", "layer 2, InstanceNorm2d, has eps 0.001, expected 1e-05"),
        ("affine", "layer 2, InstanceNorm2d, has affine True, expected False"),
        ("relu", "names 'torch.nn.modules.activation.ReLU'"),
        ("sigmoid", "layer 11 is Sigmoid, expected Tanh"),
        ("long", "12 layers, expected 11"),
        ("short", "10 layers, expected 11"),
        ("linear", "layer 1 is Linear, expected ConvTranspose2d"),
        ("shape", "3.weight has the shape [64, 128, 3, 3], expected [128, 64, 3, 3]"),
        ("vast", "3.weight has the shape [1000000, 1000000], expected [128, 64, 3, 3]"),
        ("missing", "it lacks 3.weight"),
        ("more", "it has 12.weight besides"),
        ("nan", "3.weight holds values that are not finite"),
        ("infinite", "it draws values that are not finite"),
        ("integers", "3.weight has the type int64, expected float32"),
        ("dcgan", "it is a generator of dcgan"),
        ("discriminator", "it is a discriminator of wgan"),
        ("number", "under a key generator or"),
        ("no_tensor", "epoch is no tensor"),
        ("tensor", "holds no network"),
        ("empty", "holds no network"),
        ("pickle", "no file of torch.save"),
        ("escape", "a part whose name is no text"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(foreign: Path, form: str, said: str) -> None:
    path = foreign / f"bad_{form}.pt"
    with pytest.raises(UnfitFileError) as raised:
        importing.read_networks("wgan", path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


class Hostile:
    """It calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.called = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def archive(pickled: bytes, numbers: bytes = bytes(16), **members: bytes) -> bytes:
    """A file of ``torch.save`` with this pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, data in {"data.pkl": pickled, "data/0": numbers, "version": b"3\n", **members}.items():
            opened.writestr(f"a/{name}", data)
    return file.getvalue()


def old(pickled: bytes) -> bytes:
    """The same in the older format."""
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*head, pickled, pickle.dumps([], 2)])


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value if isinstance(value, tuple) and value[:1] == ("storage",) else None


def claim(shape: tuple[int, ...], strides: tuple[int, ...], count: int = 4, offset: int = 0) -> bytes:
    """A pickle of vanilla's weights, the first of which is a view of a storage of ``count`` numbers."""
    weights: dict[str, Any] = dict(ARCHS["vanilla"].generator().state_dict())
    storage = ("storage", torch.FloatStorage, "0", "cpu", count)
    for name, tensor in weights.items():
        args = (storage, offset, shape, strides) if name == "fc_g0.weight" else (storage, 0, tensor.shape, [0])
        full = (*args[:3], args[3] if name == "fc_g0.weight" else (0,) * tensor.dim(), False, OrderedDict())
        weights[name] = Hostile(torch._utils._rebuild_tensor_v2, *full[:2], tuple(full[2]), *full[3:])
    file = io.BytesIO()
    Pickler(file, 2).dump(weights)
    return file.getvalue()


def deepen(times: int, instruction: bytes) -> bytes:
    """A dict whose key is a tuple in a tuple in a tuple …"""
    return b"\x80\x02})" + instruction * times + b"K\x01s."


def nest(number: int, inner: int) -> bytes:
    """The instructions for network ``number``, which has network ``inner`` in it twice; 0: nothing."""
    part = b"h%c" % inner if inner else b"N"
    return (
        b"c__main__\nDiscriminator\n)\x81q%c}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}" % number
        + b"X\x08\x00\x00\x00_modules}(X\x01\x00\x00\x00a" + part + b"X\x01\x00\x00\x00b" + part + b"uub"
    )  # fmt: skip


PICKLES: dict[str, tuple[bytes, str]] = {
    "os.system": (pickle.dumps(Hostile(os.system, "touch it_ran"), 2), "names 'posix.system'"),
    "eval": (pickle.dumps(Hostile(eval, "open('it_ran', 'w')"), 2), "names '__builtin__.eval'"),
    "torch.load": (pickle.dumps(Hostile(torch.load, "x", None, None, False), 2), "names 'torch.serialization.load'"),
    "bytearray": (pickle.dumps(Hostile(bytearray, 2**36), 2), "names '__builtin__.bytearray'"),
    "a call of a class": (b"\x80\x02c__main__\nDiscriminator\nX\x01\x00\x00\x00x\x85R.", "no layer"),
    "a call of a result": (b"\x80\x02c__main__\nDiscriminator\n)R)R.", "damaged"),
    "a state for a number": (b"\x80\x02K\x01}b.", "damaged"),
    "a foreign reference": (b"\x80\x02X\x01\x00\x00\x00xQ.", "a storage has no type or size"),
    "deep tuples": (deepen(MAX_STEPS - 10, b"\x85"), "damaged"),
    "deeper tuples": (deepen(3_000_000, b"\x85"), "more than 100,000 instructions"),
    "tuples of themselves": (
        b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(1, 60)) + b"K\x01s.", "damaged",
    ),
    "a network in itself": (b"\x80\x02" + nest(1, 1) + b".", "too long"),
    "a network of copies": (b"\x80\x02" + b"".join(nest(i, max(i - 1, 0)) for i in range(1, 22)) + b".", "100 parts"),
}  # fmt: skip


@pytest.mark.parametrize("wrap", [archive, old])
@pytest.mark.parametrize("name", PICKLES)
def test_nothing_of_a_hostile_pickle_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wrap: Callable[[bytes], bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled, said = PICKLES[name]
    (tmp_path / "G.pt").write_bytes(wrap(pickled))
    with pytest.raises(UnfitFileError, match=said):
        importing.read_networks("wgan", tmp_path / "G.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["G.pt"]


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (claim((100, 20), (20, 1)), "larger than its storage"),
        (claim((100, 20), (0, 0), offset=4), "larger than its storage"),
        (claim((100, 20), (0, 1), count=100), "another size"),
        (claim((100, 20), (0, -1)), "impossible shape"),
        (claim((10**12,), (0,)), r"has the shape \[1000000000000\], expected \[100, 20\]"),
        (claim((2**63, 1), (0, 0)), "impossible shape"),
    ],
)
def test_a_tensor_that_claims_more_than_it_has_is_refused(tmp_path: Path, pickled: bytes, said: str) -> None:
    (tmp_path / "G.pt").write_bytes(archive(pickled))
    with pytest.raises(UnfitFileError, match=said):
        importing.read_networks("vanilla", tmp_path / "G.pt")


def test_a_tensor_may_repeat_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "G.pt").write_bytes(archive(claim((100, 20), (0, 0))))
    weight = importing.read_networks("vanilla", tmp_path / "G.pt").generator.state_dict()["fc_g0.weight"]
    assert weight.is_contiguous()
    assert not weight.any()


def deflate(size: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a/data.pkl", pickle.dumps({}, 2))
        opened.writestr("a/data/0", bytes(size))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n", "no file of torch.save"),
        (archive(b""), "damaged"),
        (archive(pickle.dumps({}, 2), **{"constants.pkl": b""}), "TorchScript"),
        (archive(pickle.dumps({}, 2), byteorder=b"big"), "another kind of machine"),
        (deflate(saved_networks.MAX_BYTES), "packed archive"),
        (b"PK\x03\x04", "damaged"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "G.pt").write_bytes(data)
    with pytest.raises(UnfitFileError, match=said):
        importing.read_networks("wgan", tmp_path / "G.pt")


@pytest.mark.parametrize("form", ["vanilla_whole", "vanilla_weights", "vanilla_whole_old", "vanilla_weights_old"])
def test_a_truncated_file_is_refused(tmp_path: Path, foreign: Path, form: str) -> None:
    data = (foreign / f"{form}.pt").read_bytes()
    for share in range(1, 40):
        (tmp_path / "G.pt").write_bytes(data[: len(data) * share // 40])
        with pytest.raises(UnfitFileError, match="damaged"):
            importing.read_networks("vanilla", tmp_path / "G.pt")


def test_what_is_no_readable_file_is_refused_unread(tmp_path: Path) -> None:
    large = tmp_path / "large.pt"
    with large.open("wb") as file:
        file.truncate(5 * 2**30)  # it takes no room
    for path, said in ((large, "more than 64 MiB"), (tmp_path, "Is a directory"), (tmp_path / "no.pt", "No such file")):
        with pytest.raises(UnfitFileError, match=said):
            importing.read_networks("wgan", path)


@pytest.mark.parametrize("arch", ARCHS)
def test_an_imported_version_is_like_any_other(tmp_path: Path, foreign: Path, arch: str) -> None:
    manifest = import_cheaply(tmp_path, foreign, arch, f"d_{arch}.pt")
    folder = tmp_path / arch / str(manifest.version)
    assert manifest.version == NEXT[arch]
    assert (manifest.recipe_name, manifest.epochs, manifest.dataset) == ("imported", 0, "unknown")
    assert [file.name for file in manifest.imported.values()] == [f"{arch}_whole.pt", f"d_{arch}.pt"]
    read, G = versions.read_generator(folder)
    assert read == manifest
    expected = torch.load(foreign / f"{arch}_weights.pt", weights_only=True)
    assert all(tensor.equal(expected[name]) for name, tensor in G.state_dict().items())
    assert versions.read_samples(folder).shape == (1, 64, 28, 28)
    assert versions.read_history(folder) == []
    D = versions.read_discriminator(folder)
    assert D is not None
    ARCHS[arch].discriminator(True).load_state_dict(D)


def test_only_an_imported_version_may_lack_its_discriminator(tmp_path: Path, foreign: Path) -> None:
    imported = tmp_path / "vanilla" / str(import_cheaply(tmp_path, foreign).version)
    assert not (imported / DISCRIMINATOR).exists()
    assert versions.read_generator(imported)[0].file_names == tuple(name for name in FILES if name != DISCRIMINATOR)
    assert versions.read_discriminator(imported) is None
    whole = tmp_path / "vanilla" / str(import_cheaply(tmp_path, foreign, discriminator="d_vanilla.pt").version)
    trained = tmp_path / "vanilla" / str(publish(tmp_path, "vanilla").version)
    for folder in (whole, trained):
        (folder / DISCRIMINATOR).unlink()
        with pytest.raises(InvalidVersionError, match=DISCRIMINATOR):
            versions.read_generator(folder)


def test_a_trained_manifest_without_a_discriminator_is_rejected(tmp_path: Path, foreign: Path) -> None:
    manifest = import_cheaply(tmp_path, foreign)
    path = tmp_path / "vanilla" / str(manifest.version) / "manifest.json"
    path.write_text(manifest.model_copy(update={"imported": {}}).model_dump_json())
    with pytest.raises(InvalidVersionError, match=f"does not list {DISCRIMINATOR}"):
        versions.read_generator(path.parent)
