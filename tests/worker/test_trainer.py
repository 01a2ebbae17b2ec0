"""A training on another data set than MNIST."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from models import classifier, mnist
from models.archs import ARCHS
from models.manifest import Manifest
from worker.settings import Settings
from worker.state import Epoch
from worker.trainer import Trainer
from worker.training import Trained

COUNT = 1_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A set of real images in another order."""
    folder = tmp_path / "other set"
    folder.mkdir()
    for name in (mnist.TRAIN_IMAGES, mnist.TEST_IMAGES):
        images = mnist.load(Settings().data_dir, name)[-COUNT:].flip(0)
        content = mnist.make_images_header(COUNT) + images.numpy().tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    return folder


def publish(settings: Settings) -> Manifest:
    arch = ARCHS["vanilla"]
    trained = Trained(
        arch.generator().state_dict(),
        arch.discriminator(True).state_dict(),
        [torch.zeros(64, 28, 28, dtype=torch.uint8)],
        [Epoch(1, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, {"fid": 1.0})],
    )
    return Trainer(settings, arch="vanilla", recipe="tuned", epochs=1, seed=0).publish(trained, {"fid": 1.0})


def test_another_set_is_named_and_not_compared(tmp_path: Path, data: Path) -> None:
    settings = Settings(model_dir=tmp_path / "models", data_dir=data, device="cpu")
    manifest = publish(settings)
    for name, found in (
        (mnist.TRAIN_IMAGES, manifest.dataset_sha256), (mnist.TEST_IMAGES, manifest.test_sha256)
    ):  # fmt: skip
        assert found == hashlib.sha256(gzip.decompress((data / f"{name}.gz").read_bytes())).hexdigest()
    assert manifest.command.startswith(f"DIGITS_DATA_DIR='{data}' ")
    assert manifest.floors != classifier.facts().floors
    assert set(manifest.floors) == set(classifier.facts().floors)
    assert manifest.rank(classifier.sha256())[0] == -np.inf  # as if it were not measured


def test_mnist_is_compared(tmp_path: Path) -> None:
    manifest = publish(Settings(model_dir=tmp_path, device="cpu"))
    assert manifest.dataset_sha256 == mnist.SHA256[mnist.TRAIN_IMAGES]
    assert manifest.test_sha256 is None
    assert manifest.floors == classifier.facts().floors
    assert manifest.rank(classifier.sha256())[0] == -1.0
    assert manifest.command == "digits train --arch vanilla --recipe tuned --epochs 1 --seed 0"
