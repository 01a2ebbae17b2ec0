"""What the handler in a tutorial does: it calls the network as it is, and Pillow."""

import io
import math

import torch
from PIL import Image
from torch import nn

from models import sampling, versions

MANIFEST, _ = versions.read_generator(versions.PRETRAINED / "dcgan" / "1")


def generator() -> nn.Module:
    return versions.read_generator(versions.PRETRAINED / "dcgan" / "1")[1]


@torch.inference_mode()
def images(G: nn.Module, n: int) -> torch.Tensor:
    """``[n, 28, 28]`` uint8."""
    return sampling.to_uint8(G(sampling.LATENTS[MANIFEST.latents](n, *MANIFEST.latent_shape)).view(n, 28, 28))


def grid(images: torch.Tensor) -> Image.Image:
    """The picture that the service answers with: near-square, 2 px of grey between the images."""
    n = len(images)
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cells = torch.full((rows * columns, 30, 30), 96, dtype=torch.uint8)
    cells[:n, :28, :28] = images
    pixels = cells.view(rows, columns, 30, 30).transpose(1, 2).reshape(rows * 30, columns * 30)[:-2, :-2]
    return Image.fromarray(pixels.numpy())


def png(images: torch.Tensor) -> bytes:
    file = io.BytesIO()
    grid(images).save(file, "PNG")
    return file.getvalue()
