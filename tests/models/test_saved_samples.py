import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import importing, saved_samples, versions
from models.archs import ARCHS
from models.manifest import Manifest
from models.pickles import UnfitFileError
from tests.models.test_importing import Hostile
from tests.versions import publish

LEVELS = np.random.default_rng(0).integers(0, 256, (3, 5, 28, 28), np.uint8)
LEVELS[0, 0, 0, :2] = 0, 255
SHARES = LEVELS.astype(np.float32) / 255


@pytest.mark.parametrize("protocol", range(6))
def test_the_list_of_the_chapter_is_read_from_every_protocol(protocol: int) -> None:
    assert saved_samples.read(pickle.dumps(list(SHARES), protocol)).equal(torch.from_numpy(LEVELS))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "epochs",
    [
        list(LEVELS),
        list(SHARES.reshape(3, 5, 1, 28, 28)),
        list(SHARES.reshape(3, 5, 784)),
        list(SHARES * 2 - 1),
        list(SHARES.astype(np.float64)),
        list(SHARES.astype(">f4")),
        [np.asfortranarray(epoch) for epoch in SHARES],
        [epoch[:, ::-1][:, ::-1] for epoch in SHARES],
    ],
    ids=["uint8", "channel", "flat", "signed", "float64", "big", "fortran", "view"],
)
def test_arrays_of_every_form_are_read(epochs: list[Any], protocol: int) -> None:
    assert saved_samples.read(pickle.dumps(epochs, protocol)).equal(torch.from_numpy(LEVELS))


def test_names_of_numpy_1_are_known() -> None:
    data = pickle.dumps(list(SHARES), 2)
    for new, former in ((b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")):
        assert saved_samples.read(data.replace(new, former)).equal(torch.from_numpy(LEVELS))


def test_float16_is_near() -> None:
    read = saved_samples.read(pickle.dumps(list(SHARES.astype(np.float16))))
    assert (read.int() - torch.from_numpy(LEVELS).int()).abs().max() <= 1


def spoil(array: Any, value: float) -> Any:
    copy = array.copy()
    copy[0, 0, 0] = value
    return copy


def enlarge(count: bytes) -> bytes:
    """A list of one array, which says that it has more images than it has bytes for."""
    small = pickle.dumps([np.zeros((16, 28, 28), np.uint8)], 2)
    vast = small.replace(b"K\x10K\x1cK\x1c\x87", count + b"K\x1cK\x1c\x87")
    assert vast != small
    return vast


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"x", "damaged"),
        (pickle.dumps(list(SHARES))[:-500], "damaged"),
        (pickle.dumps(SHARES), "no list"),
        (pickle.dumps([]), "no list"),
        (pickle.dumps([0.5]), "item 1: it is no array"),
        (pickle.dumps([SHARES[0], [0.5]]), "item 2: it is no array"),
        (pickle.dumps([SHARES[0], SHARES[1][:3]]), "differ"),
        (pickle.dumps([SHARES[0], LEVELS[0]]), "differ"),
        (pickle.dumps([SHARES[0, :, :14]]), "must have the shape"),
        (pickle.dumps([SHARES[0] * 255]), "0…255: they must be in 0…1"),
        (pickle.dumps([spoil(SHARES[0], float("nan"))]), "they must be in 0…1"),
        (pickle.dumps([spoil(SHARES[0], float("inf"))]), "they must be in 0…1"),
        (pickle.dumps([SHARES[0].astype(np.complex64)]), "must be uint8"),
        (pickle.dumps([SHARES[0].astype(object)], 2), "must be uint8"),
        (pickle.dumps([np.array([object()])], 2), "names 'copy_reg._reconstructor'|names '__builtin__.object'"),
        (pickle.dumps([torch.zeros(1)]), "names 'torch"),
        (enlarge(b"J\xff\xff\xff\x7f"), "must have the shape"),
        (enlarge(b"M\xff\x03"), "do not fill"),
        (pickle.dumps([LEVELS.reshape(-1, 28, 28)[:10]] * 1_000 * 20), "no list of 1 to 1,000"),
        (pickle.dumps([np.zeros((1_000, 28, 28), np.uint8)] * 101), "more than 100,000 images"),
        (pickle.dumps(Hostile(os.system, "touch it_ran")), "names 'posix.system'"),
        (pickle.dumps([Hostile(eval, "open('it_ran', 'w')")], 0), "names '__builtin__.eval'"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "no list"),
        (b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.", "no list|damaged"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"(dp0\nios\nsystem\n(S'x'\ntR.", "INST|damaged"),
    ],
)
def test_what_is_no_list_of_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnfitFileError, match=said):
        saved_samples.read(data)
    assert not list(tmp_path.iterdir())


def publish_imported(model_dir: Path, **changes: Any) -> Manifest:
    file = {"generator": {"name": "G.pt", "sha256": "0" * 64}}
    return publish(model_dir, "vanilla", recipe={"name": "imported"}, epochs=0, imported=file, **changes)


def write_list(folder: Path) -> Path:
    path = folder / "list.pkl"
    path.write_bytes(pickle.dumps(list(SHARES)))
    return path


def test_samples_make_a_new_version_with_the_same_weights(tmp_path: Path) -> None:
    first, newest = publish_imported(tmp_path, weights_seed=1), publish_imported(tmp_path, weights_seed=2)
    trained = publish(tmp_path, "vanilla", epochs=9)
    for chosen, source in ((None, newest), (first.version, first)):
        folder = importing.find_imported(tmp_path, "vanilla", chosen)
        assert folder.name == str(source.version)
        made = importing.publish_samples(tmp_path, folder, write_list(tmp_path))
        assert made.version > trained.version
        assert (made.weights_sha256, made.metrics, made.epochs) == (source.weights_sha256, source.metrics, 3)
        assert [*made.imported] == ["generator", "samples"]
        folder = tmp_path / "vanilla" / str(made.version)
        assert versions.read_samples(folder).equal(torch.from_numpy(LEVELS))
        versions.read_generator(folder)
        D, before = versions.read_discriminator(folder), ARCHS["vanilla"].discriminator(True).state_dict()
        assert D is not None
        assert D.keys() == before.keys()


@pytest.mark.parametrize(("version", "said"), [(None, "import one with"), (1, "no imported version 1"), (99, "99")])
def test_only_an_imported_version_gets_samples(tmp_path: Path, version: int | None, said: str) -> None:
    publish(tmp_path, "vanilla")
    with pytest.raises(importing.NotImportedError, match=said):
        importing.find_imported(tmp_path, "vanilla", version)


def test_a_list_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "vanilla" / str(publish_imported(tmp_path).version)
    with (tmp_path / "list.pkl").open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(UnfitFileError, match="more than 256 MiB"):
        importing.publish_samples(tmp_path, folder, tmp_path / "list.pkl")
