"""What generated digits are worth as training data, and how right their labels are.

Classification accuracy score (Ravuri and Vinyals 2019, arXiv:1905.10887): the project's classifier is trained only on
60,000 generated digits and tested on MNIST's 10,000 test images. For comparison, the same on real training images.

    .venv/bin/python benchmarks/usefulness.py --versions wgan/3 dcgan/1

With ``--judge``: another, deeper network, trained on MNIST for this alone, reads 65,536 images of each version. The
table says how many of them are kept at a confidence, how often the judge agrees with their labels, the same of the
worst digit, and the recall of 10,000 of all images and of 10,000 that are kept.
"""

import argparse
import asyncio
import gzip
import io
import zipfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from app.datasets import Exporter, LargeDatasetOrder
from app.engine import Engine
from app.entries import LoadedVersion
from models import classifier, metrics, mnist, readers, versions
from models.archs import ARCHS
from models.inference import BATCH, Inference
from worker.settings import Settings

DATA = Settings().data_dir
IMAGES = 65_536
CONFIDENCES = (0.5, 0.9, 0.99)


def main() -> None:
    shipped = [f"{arch}/{number}" for arch in ARCHS for number in versions.list_numbers(versions.PRETRAINED / arch)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", nargs="*", default=shipped, choices=shipped)
    parser.add_argument("--judge", action="store_true", help="measure the labels instead")
    parser.add_argument("--seeds", type=int, default=1, help="trainings for each figure")
    parser.add_argument("--min-confidence", type=float, default=0.9)
    arguments = parser.parse_args()
    if arguments.judge:
        judge = train_judge()
        for name in arguments.versions:
            print_labels(name, judge)
        return
    test = mnist.load(DATA, mnist.TEST_IMAGES), mnist.load_labels(DATA, mnist.TEST_LABELS)
    print("| trained on | test images read | of trainings |")
    print("|---|---|---|")
    for name, images, labels in iterate_sets(arguments.versions, arguments.min_confidence):
        scores = [score(images, labels, test, seed) for seed in range(arguments.seeds)]
        print(f"| {name} | {np.mean(scores):.2%} | {', '.join(f'{one:.2%}' for one in scores)} |", flush=True)


def iterate_sets(names: list[str], min_confidence: float) -> Iterator[tuple[str, Tensor, Tensor]]:
    yield "MNIST", mnist.load(DATA), mnist.load_labels(DATA)
    for name in names:
        order = LargeDatasetOrder.model_validate(
            {"arch": name.split("/")[0], "per_class": 6_000, "test_share": 0, "min_confidence": min_confidence}
        )
        with zipfile.ZipFile(io.BytesIO(asyncio.run(export(order, load(name))))) as archive:
            images, labels = (
                np.frombuffer(gzip.decompress(archive.read(f"{file}.gz")), np.uint8)
                for file in (mnist.TRAIN_IMAGES, mnist.TRAIN_LABELS)
            )
        yield name, torch.from_numpy(images[16:].reshape(-1, 28, 28).copy()), torch.from_numpy(labels[8:].copy()).long()


def score(images: Tensor, labels: Tensor, test: tuple[Tensor, Tensor], seed: int) -> float:
    trained = classifier.train(classifier.Classifier, images, labels, epochs=classifier.EPOCHS, seed=seed)
    return classifier.accuracy(trained, *test)


async def export(order: LargeDatasetOrder, version: LoadedVersion) -> bytes:
    engine = Engine(2, wait_seconds=0.0)
    engine.start()
    exporter = Exporter(engine, 3_600)
    try:
        return b"".join([piece async for piece in exporter.export(order, version)])
    finally:
        engine.close()
        exporter.close()


def load(name: str) -> LoadedVersion:
    manifest, network = versions.read_generator(versions.PRETRAINED / name)
    return LoadedVersion(manifest, Inference(network, manifest.latent_shape, torch.device("cpu")))


def make_judge() -> nn.Sequential:
    """Six convolutions; it shares nothing with the readers but the training images."""
    layers: list[nn.Module] = []
    for channels_in, channels_out in ((1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)):
        layers += [nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out)]
        layers += [nn.ReLU()] + [nn.MaxPool2d(2)] * (channels_in == channels_out != 128)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, 10))


def train_judge() -> nn.Module:
    images, labels = mnist.load(DATA), mnist.load_labels(DATA)
    judge = classifier.train(make_judge, images, labels, epochs=6, seed=1)
    test = mnist.load(DATA, mnist.TEST_IMAGES), mnist.load_labels(DATA, mnist.TEST_LABELS)
    print(f"the judge reads {classifier.accuracy(judge, *test):.2%} of the test images\n")
    print("| version | confidence | kept | rarest digit | judge agrees | worst digit | recall: all | kept |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    return judge


@torch.inference_mode()
def print_labels(name: str, judge: nn.Module) -> None:
    version = load(name)
    images = np.concatenate([version.draw(range(first, first + BATCH)) for first in range(0, IMAGES, BATCH)])
    digits, levels = readers.read(images)
    judged = np.concatenate(
        [judge(mnist.scale(chunk).unsqueeze(1)).argmax(dim=1).numpy() for chunk in torch.from_numpy(images).split(500)]
    )
    for confidence in CONFIDENCES:
        kept = levels >= readers.find_level(confidence)
        counts = np.bincount(digits[kept], minlength=10)
        right = np.bincount(digits[kept & (judged == digits)], minlength=10)
        print(
            f"| {name} | {confidence} | {kept.mean():.1%} | {counts.min():,} | {right.sum() / counts.sum():.2%} "
            f"| {(right / np.maximum(counts, 1)).min():.2%} | {recall(images):.3f} | {recall(images[kept]):.3f} |",
            flush=True,
        )


def recall(images: np.ndarray) -> float:
    """Of up to 10,000 images, as versions are measured."""
    real = metrics.Real.of(mnist.load(DATA, mnist.TEST_IMAGES), classifier.load())
    features, _ = classifier.classify(classifier.load(), torch.from_numpy(images[: metrics.IMAGES]))
    directions = normalize(features)
    return metrics.coverage(real.directions, directions, metrics.find_radii(directions))


if __name__ == "__main__":
    main()
