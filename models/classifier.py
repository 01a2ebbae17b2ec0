"""The digit classifier: labels, confidences, and the features that the metrics use.

A small convolutional network, trained once on MNIST and shipped with the code as
:data:`CLASSIFIER`, with its :class:`Facts` beside it. The metrics of two versions can be compared
only if both were measured with the same classifier, so every manifest with metrics holds its
:func:`sha256`.

    digits train-classifier
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from models import mnist

CLASSIFIER = Path(__file__).parent / "pretrained" / "classifier.safetensors"

Network = TypeVar("Network", bound=nn.Module)

FEATURES = 128
EPOCHS = 6

_BATCH = 100  # divides the data sets: every image is seen once per epoch
_LR = 0.01
_LAYOUT = torch.channels_last  # three times as fast as the default on a CPU


class Facts(BaseModel):
    """How a classifier was made, how good it is, and what real images score in its features."""

    command: str
    epochs: int
    seed: int
    threads: int
    torch: str
    wall_seconds: float
    test_accuracy: float
    floors: dict[str, float] = {}  # models.metrics.measure of real training images


class Classifier(nn.Module):
    """``[n, 1, 28, 28]`` in −1…1 → logits ``[n, 10]``; ``features`` gives ``[n, 128]``, each ≥ 0."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, 32),  # [n, 32, 14, 14]
            *_block(32, 64),  # [n, 64, 7, 7]
            *_block(64, 64),  # [n, 64, 3, 3]
            nn.Flatten(),
            nn.Linear(64 * 3 * 3, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.MaxPool2d(2),  # first: the layers after it then have a quarter of the work
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


def train(
    make: Callable[[], Network],
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda step, steps: None,
) -> Network:
    """Train a new network on ``images`` (``[n, 28, 28]`` uint8) and ``labels`` (``[n]`` int64 in 0…9).

    Each image is rotated, scaled and shifted a little at random. ``on_progress`` is called after
    every step with the number of steps done and their total. The same seed gives the same weights
    on the same CPU build with the same thread count.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        network.to(memory_format=_LAYOUT)  # type: ignore[call-overload]
        optimizer = AdamW(network.parameters(), lr=_LR, fused=True)
        steps = epochs * (len(images) // _BATCH)
        schedule = OneCycleLR(optimizer, max_lr=_LR, total_steps=steps, pct_start=0.2)
        done = 0
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for chosen in order[: len(order) // _BATCH * _BATCH].split(_BATCH):
                logits = network(_jitter(_to_pixels(images[chosen])))
                optimizer.zero_grad()
                functional.cross_entropy(logits, labels[chosen]).backward()
                optimizer.step()
                schedule.step()
                done += 1
                on_progress(done, steps)
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def classify(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``[n, 128]`` and class probabilities ``[n, 10]`` of images ``[n, 28, 28]`` uint8."""
    features = torch.cat([classifier.features(_to_pixels(chunk)) for chunk in images.split(100)])
    return features, classifier.head(features).softmax(dim=1)


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of ``images`` (``[n, 28, 28]`` uint8) whose most probable class is their label."""
    found = torch.cat([network(_to_pixels(chunk)).argmax(dim=1) for chunk in images.split(100)])
    return (found == labels).float().mean().item()


@cache
def load(path: Path = CLASSIFIER) -> Classifier:
    """A saved classifier, in eval mode. It is cached, so later calls cost nothing."""
    return load_network(Classifier, path)


def load_network(make: Callable[[], Network], path: Path) -> Network:
    """A saved network for images ``[n, 1, 28, 28]``, in eval mode."""
    network = make()
    network.to(memory_format=_LAYOUT)  # type: ignore[call-overload]
    network.load_state_dict(safetensors.torch.load_file(path))
    return network.eval().requires_grad_(False)


@cache
def facts(path: Path = CLASSIFIER) -> Facts:
    """The facts of a saved classifier, from the ``.json`` file beside it."""
    return Facts.model_validate_json(path.with_suffix(".json").read_bytes())


def save(network: nn.Module, facts: Facts, path: Path = CLASSIFIER) -> None:
    """Write the weights as safetensors, as float16 or float32 as they are, and the facts beside them."""
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(safetensors.torch.save(weights))
    path.with_suffix(".json").write_text(facts.model_dump_json(indent=2) + "\n")


@cache
def sha256(path: Path = CLASSIFIER) -> str:
    """The SHA-256 of a saved classifier's file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _to_pixels(images: Tensor) -> Tensor:
    return mnist.scale(images).unsqueeze(1)


def _jitter(pixels: Tensor) -> Tensor:
    """Each image rotated by up to 9°, scaled by up to 10 % and shifted by up to 2 pixels."""
    count = len(pixels)
    angle, scale = torch.empty(count).uniform_(-0.16, 0.16), torch.empty(count).uniform_(0.9, 1.1)
    cos, sin, shift = angle.cos() * scale, angle.sin() * scale, torch.empty(count, 2).uniform_(-2 / 14, 2 / 14)
    affine = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(count, 2, 3)
    grid = functional.affine_grid(affine, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
