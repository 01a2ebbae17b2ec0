"""The six networks against their listing: every layer's type, sizes and options."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from models import layers
from models.archs import ARCHS

Listing = list[tuple[str, type[nn.Module], dict[str, Any]]]


def deconv(i: int, o: int, kernel: int, stride: int, padding: int) -> tuple[type[nn.Module], dict[str, Any]]:
    return nn.ConvTranspose2d, conv(i, o, kernel, stride, padding)[1]


def conv(i: int, o: int, kernel: int, stride: int, padding: int) -> tuple[type[nn.Module], dict[str, Any]]:
    return nn.Conv2d, {
        "in_channels": i,
        "out_channels": o,
        "kernel_size": (kernel, kernel),
        "stride": (stride, stride),
        "padding": (padding, padding),
        "dilation": (1, 1),
        "groups": 1,
        "bias": None,
    }


def batch(channels: int) -> tuple[type[nn.Module], dict[str, Any]]:
    return nn.BatchNorm2d, {"num_features": channels, "affine": True, "track_running_stats": True}


def instance(channels: int) -> tuple[type[nn.Module], dict[str, Any]]:
    return nn.InstanceNorm2d, {"num_features": channels, "affine": False, "track_running_stats": False}


def leaky(slope: float) -> tuple[type[nn.Module], dict[str, Any]]:
    return nn.LeakyReLU, {"negative_slope": slope}


def generator(norm: Any) -> Listing:
    layers = [
        deconv(100, 128, 4, 1, 0), norm(128), leaky(0.2),
        deconv(128, 64, 3, 2, 1), norm(64), leaky(0.2),
        deconv(64, 32, 4, 2, 1), norm(32), leaky(0.2),
        deconv(32, 1, 4, 2, 1), (nn.Tanh, {}),
    ]  # fmt: skip
    return [(str(i), *layer) for i, layer in enumerate(layers)]


def discriminator(norm: Any) -> Listing:
    layers = [
        conv(1, 32, 4, 2, 1), leaky(0.2),
        conv(32, 64, 4, 2, 1), norm(64), leaky(0.2),
        conv(64, 128, 3, 2, 1), norm(128), leaky(0.2),
        conv(128, 1, 4, 1, 0), (nn.Sigmoid, {}),
    ]  # fmt: skip
    return [(f"network.{i}", *layer) for i, layer in enumerate(layers)]


VANILLA_G: Listing = [
    ("fc_g0", nn.Linear, {"in_features": 20, "out_features": 100}),
    ("relu_g0", nn.LeakyReLU, {"negative_slope": 0.01}),
    ("fc_g1", nn.Linear, {"in_features": 100, "out_features": 784}),
    ("tanh_g", nn.Tanh, {}),
]
VANILLA_D: Listing = [
    ("fc_d0", nn.Linear, {"in_features": 784, "out_features": 100, "bias": None}),
    ("relu_d0", nn.LeakyReLU, {"negative_slope": 0.01}),
    ("dropout", nn.Dropout, {"p": 0.5}),
    ("fc_d1", nn.Linear, {"in_features": 100, "out_features": 1}),
    ("sigmoid", nn.Sigmoid, {}),
]

LISTINGS = {
    "vanilla": (VANILLA_G, VANILLA_D),
    "dcgan": (generator(batch), discriminator(batch)),
    "wgan": (generator(instance), discriminator(instance)),
}


def check(network: nn.Module, listing: Listing) -> None:
    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]
    assert [name for name, _ in leaves] == [name for name, _, _ in listing]
    for (name, module), (_, kind, options) in zip(leaves, listing, strict=True):
        assert isinstance(module, kind), name
        for option, value in options.items():
            assert getattr(module, option) == value, (name, option)
        if isinstance(module, nn.Linear) and "bias" not in options:
            assert module.bias is not None, name


def test_every_architecture_is_listed() -> None:
    assert list(ARCHS) == list(LISTINGS)


@pytest.mark.parametrize("arch", ARCHS)
def test_generator_is_as_listed(arch: str) -> None:
    G = ARCHS[arch].generator()
    assert type(G) is nn.Sequential
    check(G, LISTINGS[arch][0])


@pytest.mark.parametrize("arch", ARCHS)
def test_discriminator_is_as_listed(arch: str) -> None:
    D = ARCHS[arch].discriminator(True)
    assert type(D) is nn.Sequential
    check(D, LISTINGS[arch][1])


@pytest.mark.parametrize("arch", ARCHS)
def test_discriminator_without_sigmoid_lacks_just_that(arch: str) -> None:
    check(ARCHS[arch].discriminator(False), LISTINGS[arch][1][:-1])


def test_conv_discriminator_is_named_network() -> None:
    D = ARCHS["dcgan"].discriminator(True)
    assert [name for name, _ in D.named_children()] == ["network"]


@pytest.mark.parametrize("arch", ARCHS.values(), ids=list(ARCHS))
def test_networks_fit_together(arch: Any) -> None:
    drawn = arch.generator()(torch.zeros(3, *arch.latent_shape))
    assert drawn.shape == (3, *arch.image_shape)
    assert arch.discriminator(True)(drawn).numel() == 3


LAYERS = [
    pytest.param(layers.Tanh(), (5, 784), id="tanh"),
    pytest.param(layers.InstanceNorm2d(32), (5, 32, 7, 7), id="norm"),
    pytest.param(layers.WholeImageConv2d(128, 1, 4, bias=False), (5, 128, 4, 4), id="whole"),
    pytest.param(layers.OneChannelConv2d(1, 32, 4, stride=2, padding=1, bias=False), (5, 1, 28, 28), id="conv"),
    pytest.param(
        layers.OneChannelConvTranspose2d(32, 1, 4, stride=2, padding=1, bias=False), (5, 32, 14, 14), id="transpose"
    ),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_a_faster_layer_computes_what_torchs_own_does(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The outputs, the gradients, and the second gradients, which a gradient penalty needs, are the same."""
    layer = copy.deepcopy(layer).double()
    (parent,) = type(layer).__bases__
    assert parent.__module__.startswith("torch.")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    wrt = [images, *layer.parameters()]
    found = []
    for kind in (type(layer), parent):  # the same weights
        layer.__class__ = kind
        out = layer(images)
        first = torch.autograd.grad(out.pow(3).sum(), wrt, create_graph=True)
        second = torch.autograd.grad(torch.cat([gradient.flatten() for gradient in first]).pow(2).sum(), wrt)
        found.append([out, *first, *second])
    for ours, torchs in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs)
        assert ours.abs().max() > 0


def test_dropout_keeps_a_half_and_doubles_it() -> None:
    dropout = layers.Dropout()
    torch.manual_seed(0)
    kept = dropout(torch.full((200, 100), 3.0))
    assert kept.unique().tolist() == [0, 6]
    assert kept.mean().item() == pytest.approx(3, abs=0.1)  # 4 σ: 0.085
    assert not kept.equal(dropout(torch.full((200, 100), 3.0)))
    assert dropout.eval()(kept).equal(kept)
