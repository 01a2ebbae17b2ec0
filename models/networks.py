"""The six networks, layer by layer: a generator and a discriminator for each architecture.

Every function returns a plain ``nn.Sequential`` with torch's default initial weights. Knows
nothing of training, files or devices.

The vanilla networks work on flat images, ``[n, 784]``; the convolutional ones on
``[n, 1, 28, 28]``. Generators end in Tanh, so pixels are in −1…1. Sources: Raschka, Liu and
Mirjalili, *Machine Learning with PyTorch and Scikit-Learn* (2022), chapter 17; Radford et al.,
arXiv:1511.06434 (DCGAN); Gulrajani et al., arXiv:1704.00028 (WGAN-GP).
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from models.layers import (
    Dropout,
    InstanceNorm2d,
    OneChannelConv2d,
    OneChannelConvTranspose2d,
    Tanh,
    WholeImageConv2d,
)

Norm = Callable[[int], nn.Module]


def vanilla_generator() -> nn.Sequential:
    """Latents ``[n, 20]`` → flat images ``[n, 784]`` in −1…1."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            fc_g0=nn.Linear(20, 100),
            relu_g0=nn.LeakyReLU(0.01),
            fc_g1=nn.Linear(100, 784),
            tanh_g=Tanh(),
        )
    )


def vanilla_discriminator(sigmoid: bool = True) -> nn.Sequential:
    """Flat images ``[n, 784]`` → ``[n, 1]``: the probability of being real (a logit without sigmoid)."""
    layers = OrderedDict[str, nn.Module](
        fc_d0=nn.Linear(784, 100, bias=False),
        relu_d0=nn.LeakyReLU(0.01),
        dropout=Dropout(),
        fc_d1=nn.Linear(100, 1),
    )
    if sigmoid:
        layers["sigmoid"] = nn.Sigmoid()
    return nn.Sequential(layers)


def dcgan_generator() -> nn.Sequential:
    """Latents ``[n, 100, 1, 1]`` → images ``[n, 1, 28, 28]`` in −1…1."""
    return _conv_generator(nn.BatchNorm2d)


def dcgan_discriminator(sigmoid: bool = True) -> nn.Sequential:
    """Images ``[n, 1, 28, 28]`` → ``[n, 1, 1, 1]``: the probability of being real (a logit without sigmoid)."""
    return _conv_discriminator(nn.BatchNorm2d, sigmoid)


def wgan_generator() -> nn.Sequential:
    """As :func:`dcgan_generator`, with instance normalisation, so that no image depends on its batch."""
    return _conv_generator(InstanceNorm2d)


def wgan_discriminator(sigmoid: bool = True) -> nn.Sequential:
    """The critic: as :func:`dcgan_discriminator` with instance normalisation.

    With ``sigmoid`` its score is in 0…1. Without, as in the paper, it is unbounded.
    """
    return _conv_discriminator(InstanceNorm2d, sigmoid)


def _conv_generator(norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(100, 128, 4, stride=1, bias=False),  # [n, 128, 4, 4]
        norm(128),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(128, 64, 3, stride=2, padding=1, bias=False),  # [n, 64, 7, 7]
        norm(64),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1, bias=False),  # [n, 32, 14, 14]
        norm(32),
        nn.LeakyReLU(0.2),
        OneChannelConvTranspose2d(32, 1, 4, stride=2, padding=1, bias=False),  # [n, 1, 28, 28]
        Tanh(),
    )


def _conv_discriminator(norm: Norm, sigmoid: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        OneChannelConv2d(1, 32, 4, stride=2, padding=1, bias=False),  # [n, 32, 14, 14]
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, stride=2, padding=1, bias=False),  # [n, 64, 7, 7]
        norm(64),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False),  # [n, 128, 4, 4]
        norm(128),
        nn.LeakyReLU(0.2),
        WholeImageConv2d(128, 1, 4, bias=False),  # [n, 1, 1, 1]
    ]
    if sigmoid:
        layers.append(nn.Sigmoid())
    return nn.Sequential(OrderedDict(network=nn.Sequential(*layers)))
