"""The training loop as tutorials write it, to measure ``worker.training`` against.

A ``DataLoader`` decodes and normalises image by image. The discriminator's step keeps the graph of
the fake images. Every loss is read after every step. The recipe is ``book``.
"""

import itertools
import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset

from models import layers
from models.archs import ARCHS
from worker.recipes import RECIPES, Recipe


class Images(Dataset[Tensor]):
    """MNIST as a data set of pictures, each converted when it is asked for.

    The conversions are those of torchvision's ``MNIST`` with ``ToTensor`` and ``Normalize``, in the same
    order as in the reference notebooks.
    """

    def __init__(self, images: Tensor, shape: tuple[int, ...]) -> None:
        self.images = images
        self.shape = shape

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return _normalise(_to_tensor(Image.fromarray(self.images[index].numpy()))).view(self.shape)


def _to_tensor(picture: Image.Image) -> Tensor:
    """A grey picture → ``[1, height, width]`` in 0…1."""
    values = torch.from_numpy(np.array(picture, copy=True)).view(picture.height, picture.width, 1)
    return values.permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def _normalise(pixels: Tensor) -> Tensor:
    """0…1 → −1…1, with a mean and a deviation for each channel."""
    mean, deviation = (torch.as_tensor([0.5], dtype=pixels.dtype).view(-1, 1, 1) for _ in range(2))
    return pixels.clone().sub_(mean).div_(deviation)


def step_seconds(arch: str, images: Tensor, steps: int) -> list[float]:
    """The seconds of each of ``steps`` steps of the recipe ``book``, one batch per step."""
    recipe = RECIPES["book"][arch]
    shape = ARCHS[arch].image_shape
    G, D = _of_torch(ARCHS[arch].generator()), _of_torch(ARCHS[arch].discriminator(True))
    g_optimizer = Adam(G.parameters(), lr=recipe.lr_g)
    d_optimizer = Adam(D.parameters(), lr=recipe.lr_d)
    loader = DataLoader(Images(images, shape), batch_size=recipe.batch, shuffle=True, drop_last=True)
    times = [time.perf_counter()]
    for real in itertools.islice(loader, steps):
        losses = [_d_step(recipe, G, D, d_optimizer, real) for _ in range(recipe.d_steps)]
        losses.append(_g_step(recipe, G, D, g_optimizer))
        times.append(time.perf_counter())
    return [end - start for start, end in itertools.pairwise(times)]


def _of_torch(network: nn.Sequential) -> nn.Sequential:
    """The same network with torch's own layers in place of the project's faster ones."""
    for layer in network.modules():
        if type(layer).__module__ == layers.__name__:
            (layer.__class__,) = type(layer).__bases__
    return network


def _latents(recipe: Recipe) -> Tensor:
    return torch.rand(recipe.batch, *ARCHS[recipe.arch].latent_shape) * 2 - 1


def _d_step(recipe: Recipe, G: nn.Module, D: nn.Module, optimizer: Adam, real: Tensor) -> float:
    D.zero_grad()
    fake = G(_latents(recipe))
    d_real, d_fake = D(real), D(fake)
    if recipe.objective == "bce":
        loss = binary_cross_entropy(d_real, torch.ones_like(d_real))
        loss = loss + binary_cross_entropy(d_fake, torch.zeros_like(d_fake))
    else:
        loss = d_fake.mean() - d_real.mean() + recipe.penalty_weight * _penalty(D, real, fake)
    loss.backward()
    optimizer.step()
    return loss.item()


def _penalty(D: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    alpha = torch.rand(len(real), 1, 1, 1)
    between = (alpha * real.data + (1 - alpha) * fake.data).requires_grad_()
    verdict = D(between)
    (gradient,) = torch.autograd.grad(verdict, between, torch.ones_like(verdict), create_graph=True)
    return ((gradient.view(len(real), -1).norm(2, dim=1) - 1) ** 2).mean()


def _g_step(recipe: Recipe, G: nn.Module, D: nn.Module, optimizer: Adam) -> float:
    G.zero_grad()
    d_fake = D(G(_latents(recipe)))
    loss = binary_cross_entropy(d_fake, torch.ones_like(d_fake)) if recipe.objective == "bce" else -d_fake.mean()
    loss.backward()
    optimizer.step()
    return loss.item()
