import gzip
from pathlib import Path

import pytest
import torch

from models import mnist
from worker.settings import Settings

DATA = Settings().data_dir


def test_training_images_are_mnist() -> None:
    images = mnist.load(DATA)
    assert images.shape == (60_000, 28, 28)
    assert images.dtype == torch.uint8
    assert images.float().mean().item() == pytest.approx(33.3184, abs=1e-3)  # the published mean, 0.1307 · 255


def test_test_images_are_mnist() -> None:
    assert mnist.load(DATA, mnist.TEST_IMAGES).shape == (10_000, 28, 28)


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(mnist.DatasetError, match="DIGITS_DATA_DIR"):
        mnist.load(tmp_path)


def test_one_changed_pixel_is_noticed(tmp_path: Path) -> None:
    name = f"{mnist.TEST_IMAGES}.gz"
    raw = bytearray(gzip.decompress((DATA / name).read_bytes()))
    raw[100_000] ^= 1
    (tmp_path / name).write_bytes(gzip.compress(raw, 1))
    with pytest.raises(mnist.DatasetError, match="sha256"):
        mnist.load(tmp_path, mnist.TEST_IMAGES)


def test_truncated_file_is_an_error(tmp_path: Path) -> None:
    name = f"{mnist.TEST_IMAGES}.gz"
    (tmp_path / name).write_bytes((DATA / name).read_bytes()[:1000])
    with pytest.raises(mnist.DatasetError, match="cannot be read"):
        mnist.load(tmp_path, mnist.TEST_IMAGES)


def test_batches_cover_an_epoch_once_and_drop_the_rest() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1)
    drawn = torch.stack(list(mnist.iterate_batches(images, torch.randperm(10), 3)))
    assert drawn.shape == (3, 3, 1, 1)
    values = ((drawn.flatten() + 1) * 127.5).round().int().tolist()
    assert len(set(values)) == 9
    assert set(values) <= set(range(10))


def test_batches_are_scaled_to_minus_one_and_one_in_the_given_order() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1)
    (batch,) = mnist.iterate_batches(images, torch.tensor([1, 0]), 2)
    assert batch.flatten().tolist() == [1.0, -1.0]


def test_labels_belong_to_the_images() -> None:
    labels = mnist.load_labels(DATA)
    assert labels.shape == (60_000,)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    test_labels = mnist.load_labels(DATA, mnist.TEST_LABELS)
    assert torch.bincount(test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
