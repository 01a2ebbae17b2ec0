import hashlib
import json
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from models import classifier, publishing, versions
from models.archs import ARCHS
from models.manifest import FILES, MANIFEST, SAMPLES, InvalidVersionError, Manifest, Origin
from tests.processes import run_in_threads
from tests.versions import origin, publish


def folder_of(model_dir: Path, manifest: Manifest) -> Path:
    return model_dir / manifest.arch / str(manifest.version)


def rewrite_manifest(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_published_version_reads_back(tmp_path: Path, arch: str) -> None:
    manifest = publish(tmp_path, arch)
    folder = folder_of(tmp_path, manifest)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, MANIFEST])
    read, G = versions.read_generator(folder)
    assert read == manifest
    assert not G.training
    torch.manual_seed(0)
    expected = ARCHS[arch].generator().state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in G.state_dict().items())
    assert versions.read_samples(folder).shape == (1, 64, 28, 28)


def test_samples_read_back_image_by_image(tmp_path: Path) -> None:
    samples = torch.arange(3 * 64 * 784).remainder(251).to(torch.uint8).view(3, 64, 28, 28)
    weights = {"weight": torch.zeros(1)}
    manifest = publishing.publish(
        tmp_path, origin(), generator=weights, discriminator=weights, samples=samples, history=[]
    )
    assert versions.read_samples(folder_of(tmp_path, manifest)).equal(samples)


def test_numbers_follow_those_of_the_shipped_versions(tmp_path: Path) -> None:
    shipped = max(version for arch, version in versions.find_folders(tmp_path) if arch == "dcgan")
    assert [publish(tmp_path).version, publish(tmp_path).version] == [shipped + 1, shipped + 2]


def test_a_number_that_was_given_here_never_means_a_shipped_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later release may ship it. This one ships versions 1 and 2 of vanilla."""
    with monkeypatch.context() as earlier:
        for module in (versions, publishing):
            earlier.setattr(module, "PRETRAINED", tmp_path / "shipped")
        ours = publish(tmp_path, "vanilla")
    assert ours.version == 1
    assert versions.find_folders(tmp_path)["vanilla", 1] == folder_of(tmp_path, ours)
    shutil.rmtree(folder_of(tmp_path, ours))
    assert ("vanilla", 1) not in versions.find_folders(tmp_path)
    assert ("vanilla", 2) in versions.find_folders(tmp_path)


def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    """Not that of a version that was deleted, nor one whose publication failed."""
    first, second = publish(tmp_path), publish(tmp_path)
    shutil.rmtree(folder_of(tmp_path, second))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="No space"):
            publish(tmp_path)
    shutil.rmtree(folder_of(tmp_path, first))
    assert publish(tmp_path).version > second.version + 1


def test_racing_publishers_get_different_numbers(tmp_path: Path) -> None:
    numbers: list[int] = []
    ready, seeds = threading.Barrier(8), iter(range(8))

    def work() -> None:
        ready.wait()
        numbers.append(publish(tmp_path, "vanilla", weights_seed=next(seeds)).version)

    run_in_threads(work, 8)
    assert len(set(numbers)) == 8
    for version in numbers:
        versions.read_generator(tmp_path / "vanilla" / str(version))
    assert [path.name for path in tmp_path.glob("vanilla/.*")] == [".numbers"]


def full(self: Path, target: Path) -> None:
    raise OSError(28, "No space left on device")


def test_a_failed_publish_leaves_nothing_but_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        publish(tmp_path)
    assert [path.name for path in (tmp_path / "dcgan").iterdir()] == [".numbers"]


def test_a_folder_without_manifest_does_not_exist(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, publish(tmp_path))
    (folder / MANIFEST).unlink()
    assert folder not in versions.find_folders(tmp_path).values()


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_rejected(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, publish(tmp_path))
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidVersionError, match=f"{name}.*truncated"):
        versions.read_generator(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_rejected(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, publish(tmp_path))
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InvalidVersionError, match=f"{name}.*sha256"):
        versions.read_generator(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_rejected(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, publish(tmp_path))
    (folder / name).unlink()
    with pytest.raises(InvalidVersionError, match=name):
        versions.read_generator(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"neither"])
def test_samples_that_are_no_archive_are_rejected(tmp_path: Path, content: bytes) -> None:
    folder = folder_of(tmp_path, publish(tmp_path))
    (folder / SAMPLES).write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    files[SAMPLES] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(folder, files=files)
    with pytest.raises(InvalidVersionError, match="cannot be read"):
        versions.read_samples(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema_version": 2}, "unknown schema version 2"),
        ({"schema_version": None}, "unknown schema version None"),
        ({"epochs": "many"}, "epochs"),
        ({"version": 99}, "version 99, not of this folder"),
        ({"arch": "vanilla"}, "not of this folder"),
        ({"latent_shape": [7]}, "latent shape"),
        ({"latents": "cauchy"}, "cauchy"),
        ({"files": {}}, "does not list"),
    ],
)
def test_a_manifest_that_does_not_fit_is_rejected(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    folder = folder_of(tmp_path, publish(tmp_path))
    rewrite_manifest(folder, **changes)
    with pytest.raises(InvalidVersionError, match=reason):
        versions.read_generator(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"x"'])
def test_a_manifest_that_is_none_is_rejected(tmp_path: Path, content: bytes) -> None:
    folder = folder_of(tmp_path, publish(tmp_path))
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(InvalidVersionError):
        versions.read_generator(folder)


def with_generator(model_dir: Path, weights: dict[str, torch.Tensor]) -> Path:
    """A version with correct sums, but with ``weights`` as its generator."""
    G = ARCHS["dcgan"].discriminator(True)
    manifest = publishing.publish(
        model_dir,
        Origin(**publish(model_dir).model_dump()),
        generator=weights,
        discriminator=G.state_dict(),
        samples=torch.zeros(1, 64, 28, 28, dtype=torch.uint8),
        history=[],
    )
    return folder_of(model_dir, manifest)


def test_weights_of_another_network_are_rejected(tmp_path: Path) -> None:
    folder = with_generator(tmp_path, dict(ARCHS["vanilla"].generator().state_dict()))
    with pytest.raises(InvalidVersionError, match="does not fit dcgan"):
        versions.read_generator(folder)


def test_weights_that_are_not_finite_are_rejected(tmp_path: Path) -> None:
    weights = dict(ARCHS["dcgan"].generator().state_dict())
    weights["0.weight"] = torch.full_like(weights["0.weight"], float("nan"))
    with pytest.raises(InvalidVersionError, match="not finite"):
        versions.read_generator(with_generator(tmp_path, weights))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("it was unpickled",))


def test_a_pickle_in_place_of_weights_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors.torch, "save", lambda weights: pickle.dumps(Bomb()))
    folder = folder_of(tmp_path, publish(tmp_path))
    with pytest.raises(InvalidVersionError, match="does not fit"):
        versions.read_generator(folder)


def test_the_best_is_the_one_of_least_fid_then_of_most_epochs(tmp_path: Path) -> None:
    trial = publish(tmp_path, epochs=1)
    long = publish(tmp_path, epochs=50)
    again = publish(tmp_path, epochs=50)
    present = classifier.sha256()
    good = publish(tmp_path, metrics={"fid": 8.0}, classifier_sha256=present)
    better = publish(tmp_path, metrics={"fid": 4.0}, classifier_sha256=present)
    unmeasured = publish(tmp_path, epochs=20, classifier_sha256=present)
    foreign = publish(tmp_path, metrics={"fid": 2.0}, classifier_sha256="of another")
    ranked = sorted([better, good, again, long, trial, unmeasured, foreign], key=lambda m: m.rank(present))
    assert [m.version for m in ranked] == [m.version for m in (trial, foreign, unmeasured, long, again, good, better)]
