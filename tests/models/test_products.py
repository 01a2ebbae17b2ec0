from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import sampling, versions
from models.archs import ARCHS
from models.layers import InstanceNorm2d
from models.products import Products, UnknownLayerError

IMAGES = 10_000


def eager(G: nn.Sequential, z: Tensor) -> Tensor:
    with torch.inference_mode():
        return sampling.to_uint8(G(z).view(-1, 28, 28))


def differing(ours: Tensor, expected: Tensor) -> tuple[int, float]:
    """The largest difference in grey levels, and the share of the pixels that differ."""
    differences = (ours.int() - expected.int()).abs()
    return int(differences.max()), (differences > 0).float().mean().item()


@pytest.mark.parametrize("arch", ARCHS)
def test_the_shipped_versions_draw_as_their_networks_do(arch: str) -> None:
    manifest, G = versions.read_generator(versions.PRETRAINED / arch / "1")
    draw = Products(G)
    z = sampling.make_latents(range(IMAGES), manifest.latent_shape, manifest.latents)
    ours = torch.cat([sampling.round_levels(draw(chunk)) for chunk in z.split(32)])
    expected = torch.cat([eager(G, chunk) for chunk in z.split(500)])
    largest, share = differing(ours, expected)
    assert largest <= 1
    assert share <= 0.001
    assert expected.float().std() > 50  # the images are not blank


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (4, 2, 1), (5, 3, 1), (6, 3, 2), (5, 4, 1)])
def test_transposed_convolutions_of_other_shapes(kernel: int, stride: int, padding: int, batch_norm: bool) -> None:
    """The norms have random parameters, so that they change the result."""
    torch.manual_seed(0)
    between = nn.ConvTranspose2d(8, 6, kernel, stride, padding, bias=False)
    norm = nn.BatchNorm2d(6) if batch_norm else InstanceNorm2d(6)
    for values in norm.state_dict().values():
        if values.is_floating_point():
            values.copy_(torch.rand(6) + 0.5)
    first = nn.ConvTranspose2d(5, 8, 3, bias=False)
    G = nn.Sequential(first, nn.LeakyReLU(0.2), between, norm, nn.LeakyReLU(0.3), nn.Tanh()).eval()
    z = torch.randn(7, 5, 1, 1)
    ours = z.flatten(1)
    with torch.inference_mode():
        for layer in Products(G)._layers:
            ours = layer(ours)
        torch.testing.assert_close(ours.permute(0, 3, 1, 2), G[:-1](z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(5, 1, 28, bias=True),
        nn.ConvTranspose2d(5, 1, 28, padding=1, bias=False),
        nn.Conv2d(5, 1, 1),
        nn.ReLU(),
    ],
    ids=str,
)
def test_what_it_does_not_know_is_refused(layer: nn.Module) -> None:
    with pytest.raises(UnknownLayerError):
        Products(nn.Sequential(layer, nn.Tanh()))
    with pytest.raises(UnknownLayerError):
        Products(nn.Sequential(nn.Linear(2, 784)))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 7, "stride": 3, "padding": 1},
        {"kernel_size": 4, "stride": 2, "padding": 0},
        {"kernel_size": (4, 3), "stride": 2, "padding": 1},
        {"kernel_size": 4, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 2},
    ],
    ids=str,
)
def test_transposed_convolutions_that_do_not_overlap_by_two_are_refused(options: dict[str, Any]) -> None:
    first, second = nn.ConvTranspose2d(5, 4, 7, bias=False), nn.ConvTranspose2d(4, 4, bias=False, **options)
    with pytest.raises(UnknownLayerError):
        Products(nn.Sequential(OrderedDict(first=first, second=second, tanh=nn.Tanh())))


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.products._ONEDNN", False)
    manifest, G = versions.read_generator(versions.PRETRAINED / "dcgan" / "1")
    z = sampling.make_latents(range(64), manifest.latent_shape, manifest.latents)
    assert differing(sampling.round_levels(Products(G)(z)), eager(G, z))[0] <= 1
