"""torch's layers in faster forms: the same sums, in another order.

Speeds are in docs/measurements.md. Knows nothing of the networks that use them.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, pad, pixel_shuffle, pixel_unshuffle


class Tanh(nn.Tanh):
    """As torch's, by the sigmoid, of which torch has the faster one: 2σ(2x) − 1."""

    def forward(self, values: Tensor) -> Tensor:
        return _widen(values).mul(2).sigmoid().mul(2).sub(1)


class Dropout(nn.Dropout):
    """As torch's of one half, whose draws take three times as long."""

    def __init__(self) -> None:
        super().__init__(0.5)

    def forward(self, values: Tensor) -> Tensor:
        return values * torch.empty_like(values).random_(2).mul_(2) if self.training else values


class InstanceNorm2d(nn.InstanceNorm2d):
    """As torch's, without weights or running statistics: the same sums, sooner where channels come last."""

    def forward(self, maps: Tensor) -> Tensor:
        maps = _widen(maps)
        deviations = maps - maps.mean(dim=(2, 3), keepdim=True)
        return deviations * (deviations.square().mean(dim=(2, 3), keepdim=True) + self.eps).rsqrt()


class WholeImageConv2d(nn.Conv2d):
    """As torch's, of one kernel that covers the whole image: a sum of products."""

    def forward(self, maps: Tensor) -> Tensor:
        return (maps * self.weight).sum(dim=(1, 2, 3), keepdim=True)


class OneChannelConv2d(nn.Conv2d):
    """As torch's, of kernel 4, stride 2, padding 1, for images of one channel.

    The pixels of each 2 × 2 square become four channels under a kernel of 2 and stride 1: the same
    sums, several times as fast, since kernels for one channel are slow.
    """

    def forward(self, images: Tensor) -> Tensor:
        return conv2d(pixel_unshuffle(pad(images, (1, 1, 1, 1)), 2), pixel_unshuffle(self.weight, 2))


class OneChannelConvTranspose2d(nn.ConvTranspose2d):
    """As torch's, of kernel 4, stride 2, padding 1, to images of one channel: :class:`OneChannelConv2d` reversed."""

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        squares = conv_transpose2d(maps, pixel_unshuffle(self.weight, 2))
        return pixel_shuffle(squares, 2)[:, :, 1:-1, 1:-1]


def _widen(values: Tensor) -> Tensor:
    """bfloat16 → float32; anything wider as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
