"""A generator's forward pass as a few large matrix products.

A transposed convolution is one matrix product (all taps of the kernel, for all pixels at once) and an
overlap-add, which sums the taps that fall on the same pixel. Channels come last. Batch norms are folded
into weights and biases. Biases and leaky ReLUs are folded into the products if nothing comes between.
The results differ from those of the network only by the order of the sums, about 1e-6 of a pixel.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import sampling

Layer = Callable[[Tensor], Tensor]
View = tuple[torch.Size, tuple[int, ...], int]  # size, strides, offset

# On CPUs with AVX-512, oneDNN's products (torch.compile uses them too) are twice as fast as those of the BLAS.
_ONEDNN = torch.backends.mkldnn.is_available()


class UnknownLayerError(Exception):
    """A layer of the network cannot be written as a product here; call the network itself instead."""


class Products:
    """A generator in eval mode as matrix products, on the CPU. Safe in several threads.

    Supports what :mod:`models.networks` builds: linear layers and transposed convolutions, each with
    or without a norm and a leaky ReLU, and Tanh at the end.

    Raises:
        UnknownLayerError: ``G`` has another layer.
    """

    @torch.inference_mode()
    def __init__(self, G: nn.Sequential) -> None:
        modules = list(G)
        if not isinstance(modules.pop(), nn.Tanh):
            raise UnknownLayerError("the last layer is not Tanh")
        self._layers: list[Layer] = []
        while modules:
            self._layers += _take_linear(modules, first=not self._layers)

    @torch.inference_mode()
    def __call__(self, z: Tensor) -> Tensor:
        """Latents ``[n, …]`` → grey levels ``[n, 28, 28]`` as of ``sampling.to_levels``, not rounded yet."""
        x = z.flatten(1)
        for layer in self._layers:
            x = layer(x)
        contrast = 127.5 * sampling.CONTRAST  # tanh(x) = 2σ(2x) − 1
        return x.mul_(2).sigmoid_().mul_(2 * contrast).add_(127.5 - contrast).view(len(z), 28, 28)


def _take_linear(modules: list[nn.Module], first: bool) -> list[Layer]:
    """Remove the first layer from ``modules``, with its norm and leaky ReLU; return what computes them."""
    linear = modules.pop(0)
    norm = modules.pop(0) if modules and isinstance(modules[0], nn.BatchNorm2d | nn.InstanceNorm2d) else None
    slope = _slope(modules.pop(0)) if modules and isinstance(modules[0], nn.LeakyReLU) else None
    if isinstance(linear, nn.Linear) and norm is None:
        return [_Product(linear.weight, linear.bias, slope)]
    if not isinstance(linear, nn.ConvTranspose2d) or linear.bias is not None:
        raise UnknownLayerError(f"no product for {linear}")
    weight = linear.weight.permute(2, 3, 1, 0)  # [rows, columns, channels out, channels in]
    bias = None
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = weight * scale[:, None], norm.bias - norm.running_mean * scale
    after: list[Layer] = [_InstanceNorm(norm.eps, slope)] if isinstance(norm, nn.InstanceNorm2d) else []
    slope = None if after else slope
    if first:
        return [_make_first(linear, weight, bias, slope), *after]
    if linear.out_channels == 1 and not (norm or slope):
        return [_ToOneChannel(linear, weight)]
    return [_TransposedConvolution(linear, weight, bias, slope), *after]


class _Product:
    """``[m, k]`` → ``[m, n]``: a product with weights ``[n, k]``, then a bias, then a leaky ReLU."""

    def __init__(self, weight: Tensor, bias: Tensor | None, slope: float | None) -> None:
        self._weight = weight.contiguous()
        self._bias = bias
        self._slope = slope
        if _ONEDNN:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, 512)  # typical number of rows of x

    def __call__(self, x: Tensor) -> Tensor:
        return _multiply(x, self._weight, self._bias, self._slope)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None, slope: float | None = None) -> Tensor:
    if _ONEDNN:
        activation = ("none", []) if slope is None else ("leaky_relu", [slope])
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, *activation, "")
        return y
    y = functional.linear(x, weight, bias)
    return y if slope is None else functional.leaky_relu_(y, slope)


def _make_first(linear: nn.ConvTranspose2d, weight: Tensor, bias: Tensor | None, slope: float | None) -> Layer:
    """The first layer: images of one pixel, ``[n, c]``, → ``[n, h, w, c]``."""
    if linear.padding != (0, 0):
        raise UnknownLayerError(f"no product for {linear}")
    h, w, channels = weight.shape[:3]
    product = _Product(weight.flatten(0, 2), None if bias is None else bias.repeat(h * w), slope)
    return lambda x: product(x).view(-1, h, w, channels)


class _TransposedConvolution:
    """``[n, h, w, c]`` → ``[n, H, W, c]``."""

    def __init__(self, linear: nn.ConvTranspose2d, weight: Tensor, bias: Tensor | None, slope: float | None) -> None:
        self._down, self._across = _OverlapAdd(linear, (1, 3), 1), _OverlapAdd(linear, (2, 3), 2)
        self._kernel, self._channels = weight.shape[:2], weight.shape[2]
        if bias is not None:  # on those taps that add it to each new pixel once
            bias = bias * self._down.once[:, None, None] * self._across.once[:, None]
        self._product = _Product(weight.flatten(0, 2), None if bias is None else bias.flatten(), None)
        self._slope = slope

    def __call__(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        taps = self._product(x.view(-1, c)).view(n, h, w, *self._kernel, self._channels)
        rows = taps.new_empty(n, self._down.size(h), w, self._kernel[1], self._channels)
        self._down(taps, out=rows)
        y = rows.new_empty(n, rows.shape[1], self._across.size(w), self._channels)
        self._across(rows, out=y)
        return y if self._slope is None else functional.leaky_relu_(y, self._slope)


class _ToOneChannel:
    """``[n, h, w, c]`` → ``[n, H, W]``. Each tap has its own plane, so that the rows to sum are long."""

    def __init__(self, linear: nn.ConvTranspose2d, weight: Tensor) -> None:
        self._down, self._across = _OverlapAdd(linear, (3, 0), 2), _OverlapAdd(linear, (3, 0), 2)
        self._kernel = weight.shape[:2]
        self._weight = weight.flatten(0, 2).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        planes = _multiply(self._weight, x.view(-1, c)).view(*self._kernel, n, h, w)
        rows = planes.new_empty(self._kernel[1], n, self._down.size(h), w)
        self._down(planes, out=rows)
        y = rows.new_empty(n, rows.shape[2], self._across.size(w))
        self._across(rows, out=y)
        return y


class _OverlapAdd:
    """One axis of a transposed convolution: sums the taps of the old pixels on each new pixel.

    The views to sum are found once for each shape: in Python, to slice tensors takes as long as to
    sum a few images.

    Raises:
        UnknownLayerError: not one or two old pixels meet on each new one, or the layer has other options.
    """

    def __init__(self, linear: nn.ConvTranspose2d, taps: tuple[int, int], out: int) -> None:
        """``taps``: the axes of the old pixels and of their taps; ``out``: the axis of the new pixels."""
        kernel, stride, padding = linear.kernel_size[0], linear.stride[0], int(linear.padding[0])
        square = all(len(set(sides)) == 1 for sides in (linear.kernel_size, linear.stride, linear.padding))
        plain = (linear.output_padding, linear.dilation, linear.groups) == ((0, 0), (1, 1), 1)
        if not (square and plain and stride < kernel <= 2 * stride and padding <= kernel - stride <= 2 * padding):
            raise UnknownLayerError(f"no product for {linear}")
        self._kernel, self._stride, self._padding = kernel, stride, padding
        self._taps, self._out = taps, out
        self._sums: dict[torch.Size, list[list[View]]] = {}
        self.once = torch.zeros(kernel)  # 1 for ``stride`` taps: each new pixel has one of them
        self.once[padding : padding + stride] = 1

    def size(self, pixels: int) -> int:
        return (pixels - 1) * self._stride + self._kernel - 2 * self._padding

    def __call__(self, taps: Tensor, *, out: Tensor) -> None:
        sums = self._sums.get(taps.shape)
        if sums is None:
            found = self._find(taps.movedim(self._taps, (0, 1)), out.movedim(self._out, 0))
            sums = [[(view.size(), view.stride(), int(view.storage_offset())) for view in views] for views in found]
            self._sums[taps.shape] = sums
        for part, first, *second in sums:
            if second:
                torch.add(taps.as_strided(*first), taps.as_strided(*second[0]), out=out.as_strided(*part))
            else:
                out.as_strided(*part).copy_(taps.as_strided(*first))

    def _find(self, taps: Tensor, out: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Parts of ``out`` ``[size(pixels), …]``, each with the parts of ``taps`` ``[pixels, kernel, …]`` to sum."""
        stride, padding, overlap = self._stride, self._padding, self._kernel - self._stride
        begin, between = stride - padding, len(taps) - 1
        inner = out[begin : begin + between * stride].unflatten(0, (between, stride))
        yield inner[:, :overlap], taps[1:, :overlap], taps[:-1, stride:]
        if overlap < stride:
            yield inner[:, overlap:], taps[1:, overlap:stride]
        yield out[:begin], taps[0, padding:stride]
        if padding < overlap:
            yield out[begin + between * stride :], taps[-1, stride : self._kernel - padding]


class _InstanceNorm:
    """``[n, h, w, c]``, in place: brings each channel of an image to mean 0, variance 1; then a leaky ReLU."""

    def __init__(self, eps: float, slope: float | None) -> None:
        self._eps = eps
        self._slope = slope

    def __call__(self, x: Tensor) -> Tensor:
        x.sub_(x.mean(dim=(1, 2), keepdim=True))
        x.mul_(x.square().mean(dim=(1, 2), keepdim=True).add_(self._eps).rsqrt_())
        return x if self._slope is None else functional.leaky_relu_(x, self._slope)


def _slope(module: nn.Module) -> float:
    assert isinstance(module, nn.LeakyReLU)
    return module.negative_slope
