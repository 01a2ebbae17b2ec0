import gzip
import hashlib
import struct
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
    others = f"{mnist.TEST_LABELS}.gz"
    (tmp_path / others).symlink_to(DATA / others)
    with pytest.raises(mnist.DatasetError, match="sha256"):
        mnist.load(tmp_path, mnist.TEST_IMAGES)


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))


def test_another_set_in_the_same_format_is_taken_with_its_sum(tmp_path: Path) -> None:
    pixels = bytes(range(196)) * 4 * 1_000
    content = mnist.make_images_header(1_000) + pixels
    write(tmp_path, mnist.TRAIN_IMAGES, content)
    write(tmp_path, mnist.TRAIN_LABELS, mnist.make_labels_header(3) + b"\1\2\3")
    images, found = mnist.load_summed(tmp_path)
    assert images.numpy().tobytes() == pixels
    assert found == hashlib.sha256(content).hexdigest()
    assert mnist.load_labels(tmp_path).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not in MNIST's format"),
        (b"\0\0\x08\x03", "not in MNIST's format"),
        (mnist.make_labels_header(784) + bytes(784), "not in MNIST's format"),
        (mnist.make_images_header(2) + bytes(784), "not in MNIST's format"),
        (mnist.make_images_header(1) + bytes(2 * 784), "not in MNIST's format"),
        (struct.pack(">4i", 0x803, 1_000, 32, 32) + bytes(1_000 * 32 * 32), "not in MNIST's format"),
        (mnist.make_images_header(999) + bytes(999 * 784), "at least 1,000"),
    ],
)
def test_what_is_no_data_set(tmp_path: Path, content: bytes, problem: str) -> None:
    write(tmp_path, mnist.TRAIN_IMAGES, content)
    with pytest.raises(mnist.DatasetError, match=problem):
        mnist.load(tmp_path)


@pytest.mark.parametrize("content", [b"", mnist.make_labels_header(2) + b"\1", mnist.make_labels_header(1) + b"\x0a"])
def test_what_are_no_labels(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, mnist.TRAIN_LABELS, content)
    with pytest.raises(mnist.DatasetError, match="not in MNIST's format"):
        mnist.load_labels(tmp_path)


def test_what_unpacks_to_too_much_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "_MAX_BYTES", 1_000)
    write(tmp_path, mnist.TRAIN_IMAGES, bytes(10**7))
    with pytest.raises(mnist.DatasetError, match="more than 1,000 bytes"):
        mnist.load(tmp_path)


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
