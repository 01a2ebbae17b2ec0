"""Faster forms of torch's layers: the same sums, in another order.

Speeds are in docs/measurements.md. Knows nothing of the networks that use them.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pad, pixel_shuffle, pixel_unshuffle


class Tanh(nn.Tanh):
    """tanh(x) = 2σ(2x) − 1. torch's sigmoid is faster than its tanh."""

    def forward(self, values: Tensor) -> Tensor:
        return _to_float32(values).mul(2).sigmoid().mul(2).sub(1)


class Dropout(nn.Dropout):
    """Dropout with p = 1/2. torch's own takes three times as long to draw its random numbers."""

    def __init__(self) -> None:
        super().__init__(0.5)

    def forward(self, values: Tensor) -> Tensor:
        return values * torch.empty_like(values).random_(2).mul_(2) if self.training else values


class InstanceNorm2d(nn.InstanceNorm2d):
    """Instance norm without weights or running statistics. It is faster if channels come last."""

    def forward(self, maps: Tensor) -> Tensor:
        maps = _to_float32(maps)
        deviations = maps - maps.mean(dim=(2, 3), keepdim=True)
        return deviations * (deviations.square().mean(dim=(2, 3), keepdim=True) + self.eps).rsqrt()


class WholeImageConv2d(nn.Conv2d):
    """A convolution with one kernel that covers the whole image: a sum of products."""

    def forward(self, maps: Tensor) -> Tensor:
        return (maps * self.weight).sum(dim=(1, 2, 3), keepdim=True)


class OneChannelConv2d(nn.Conv2d):
    """A convolution of images of one channel, with kernel 4, stride 2, padding 1.

    The pixels of each 2 × 2 square become four channels, and the kernel becomes one of size 2 and
    stride 1. The sums are the same, but several times as fast: torch is slow with one channel.
    """

    def forward(self, images: Tensor) -> Tensor:
        return conv2d(pixel_unshuffle(pad(images, (1, 1, 1, 1)), 2), pixel_unshuffle(self.weight, 2))


class OneChannelConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution to images of one channel: the reverse of :class:`OneChannelConv2d`."""

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        squares = conv_transpose2d(maps, pixel_unshuffle(self.weight, 2))
        return pixel_shuffle(squares, 2)[:, :, 1:-1, 1:-1]


def _to_float32(values: Tensor) -> Tensor:
    """bfloat16 → float32; wider types stay as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
