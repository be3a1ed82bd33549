"""Convolutions and resampling with fast derivatives of every order, which penalties need.

PyTorch's second derivatives are slow. The second derivative of a convolution uses kernels as large as the image. That
of a grouped convolution takes many times as long as the first derivative. Here every derivative is again one of the
functions below. On CPUs, all of them expect channels_last, which is up to twice as fast.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import conv2d, conv_transpose2d, hardtanh, interpolate, leaky_relu, pad

from ganduel.models import triton_kernels, winograd

SLOPE = 0.2  # of leaky ReLU for negative inputs


def convolve(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """Convolve x (N, in, H, W) with weights (out, in / groups, k, k). `stride` must divide H + 2 padding - k, and so
    for W."""
    return _Convolution.apply(x, weight, stride, padding, groups, False)


def convolve_transposed(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """The adjoint of `convolve`.

    It maps x (N, in, H, W), with weights (in, out / groups, k, k), to (N, out, stride (H - 1) + k - 2 padding, ...).
    """
    return _Convolution.apply(x, weight, stride, padding, groups, True)


def convolve_enlarged(x: Tensor, weight: Tensor) -> Tensor:
    """Repeat every pixel of x (N, in, H, W) in both directions, then convolve with weights (out, in, 3, 3), padding 1.

    The result (N, out, 2 H, 2 W) is that of one transposed convolution, whose 4x4 kernel is the sum of the 3x3 kernel
    at four positions. It needs 4 instead of 9 multiplications for each pixel and pair of channels. For the smallest
    maps the new kernel costs more than it saves.
    """
    if x.shape[-1] < 8:
        return conv2d(interpolate(x, scale_factor=2), weight, padding=1)
    kernel = (
        pad(weight, (0, 1, 0, 1)) + pad(weight, (1, 0, 0, 1)) + pad(weight, (0, 1, 1, 0)) + pad(weight, (1, 0, 1, 0))
    )
    return conv_transpose2d(x, kernel.flip(2, 3).transpose(0, 1), stride=2, padding=1)


class Conv2d(nn.Conv2d):
    """PyTorch's layer with the derivatives of `convolve`, for discriminators that penalties differentiate twice.

    Without autocast, it works in the type of its input, whatever the type of its weights.
    """

    def forward(self, x: Tensor) -> Tensor:
        stride, padding, kernel = (int(both[0]) for both in (self.stride, self.padding, self.kernel_size))
        even = all((size + 2 * padding - kernel) % stride == 0 for size in x.shape[2:])
        if not even or x.is_meta or torch.is_autocast_enabled(x.device.type):  # penalties run outside autocast
            return super().forward(x)
        y = convolve(x, self.weight.to(x.dtype), stride=stride, padding=padding, groups=self.groups)
        return y if self.bias is None else y + self.bias.to(x.dtype)[:, None, None]


def _arguments(stride: int, padding: int, groups: int, transposed: bool) -> tuple:
    return [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], groups


class _Convolution(Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int, padding: int, groups: int, transposed: bool) -> Tensor:
        around = 2 - padding if transposed else padding
        if groups == 1 and winograd.suits(x, weight, stride, around):
            return winograd.convolve(x, weight, around, turned=transposed)
        return torch.ops.aten.convolution(x, weight, None, *_arguments(stride, padding, groups, transposed))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.settings = inputs[2:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (stride, padding, groups, transposed) = ctx.saved_tensors, ctx.settings
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _Convolution.apply(gradient, weight, stride, padding, groups, not transposed)
        if ctx.needs_input_grad[1]:
            of_weight = _WeightGradient.apply(x, gradient, weight, stride, padding, groups, transposed)
        return of_x, of_weight, None, None, None, None


class _WeightGradient(Function):
    """The gradient of the weight: linear in x and in the output's gradient. It uses only the shape of the weight."""

    @staticmethod
    def forward(
        x: Tensor, gradient: Tensor, weight: Tensor, stride: int, padding: int, groups: int, transposed: bool
    ) -> Tensor:
        before, after = (gradient, x) if transposed else (x, gradient)
        if groups == 1 and winograd.suits(before, weight, stride, padding):
            return winograd.weight_gradient(before, after, weight, padding)
        large = weight.numel() >= 2**20  # with strides, channels_last can take twice as long for large weights
        if large and stride > 1 and x.device.type == "cpu" and x.dtype == torch.float32:
            x, gradient, weight = x.contiguous(), gradient.contiguous(), weight.new_empty(weight.shape)
        settings = _arguments(stride, padding, groups, transposed)
        mask = [False, True, False]
        return torch.ops.aten.convolution_backward(gradient, x, weight, None, *settings, mask)[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.settings = inputs[3:]

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        (x, gradient), (stride, padding, groups, transposed) = ctx.saved_tensors, ctx.settings
        of_x = of_gradient = None
        if ctx.needs_input_grad[0]:
            of_x = _Convolution.apply(gradient, weight, stride, padding, groups, not transposed)
        if ctx.needs_input_grad[1]:
            of_gradient = _Convolution.apply(x, weight, stride, padding, groups, transposed)
        return of_x, of_gradient, None, None, None, None, None


def modulated(
    x: Tensor,
    convolve: Callable[[Tensor], Tensor],
    squares: Tensor,
    scale: Tensor,
    offset: Tensor | None = None,
    *,
    gain: float = 1.0,
    epsilon: Tensor | float = 1e-8,
) -> Tensor:
    """StyleGAN2's modulated convolution (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN",
    equations 1 and 3): a style scales each input channel, and demodulation normalises each output channel.

    Maps x (N, in, H, W) to what `convolve` gives, (N, out, ...). `scale` (N, in) is the style of each image. `squares`
    (out, in) are the squares of the weights, summed over the kernel. The output has unit variance, times `gain`, if the
    input has. `offset`, of a shape that PyTorch broadcasts to the output's, is added at the end.

    The result is that of separate weights for every image. But all images share the weights of `convolve`: the style
    scales the input, and the demodulation scales the output.
    """
    demodulation = (gain * (scale.square() @ squares.T + epsilon).rsqrt()).to(x.dtype)[:, :, None, None]
    y = convolve(x * scale.to(x.dtype)[:, :, None, None])
    return y * demodulation if offset is None else torch.addcmul(offset.to(x.dtype), y, demodulation)


def with_squares(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights (out, in, k, k) cast to `dtype`, and the sums of their squares over the kernel, (out, in).

    The sums keep the type of the weights.
    """
    return _WithSquares.apply(weight, dtype)


class _WithSquares(Function):
    """Its backward pass reads large weights once; autograd would read them three times."""

    @staticmethod
    def forward(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        cast = weight.view_as(weight) if dtype == weight.dtype else weight.to(dtype)
        return cast, weight.square().sum(dim=(2, 3))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, of_weight: Tensor, of_squares: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return torch.addcmul(of_weight.to(weight.dtype), weight, 2 * of_squares[:, :, None, None]), None


class Resample(nn.Module):
    """Filter images (N, C, H, W) with the low-pass filter [1, 3, 3, 1] in both directions.

    With `up` = 2, zeros come after every pixel before the filter. With `down` = 2, the result keeps every second pixel.
    `padding` is the number of zeros (before, after) that are added to each direction, between `up` and the filter.
    `gain` is the sum of the filter.
    """

    taps: Tensor

    def __init__(self, *, up: int = 1, down: int = 1, padding: tuple[int, int], gain: float = 1.0):
        super().__init__()
        self.up, self.down, self.padding = up, down, padding
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", gain * torch.outer(row, row)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return _Resampling.apply(x, self.taps.to(x.dtype), self.up, self.down, self.padding)


class _Resampling(Function):
    """Linear in x, so its derivative is its adjoint: the same function with `up` and `down` exchanged."""

    @staticmethod
    def forward(x: Tensor, taps: Tensor, up: int, down: int, padding: tuple[int, int]) -> Tensor:
        if triton_kernels.available(x):
            return triton_kernels.resample(x, taps[0, 0], up, down, padding)
        channels, (before, after) = x.shape[1], padding
        if up > 1 or before != after:
            # By hand, because a transposed depthwise convolution takes 30 times as long in bf16.
            size = [n * up + before + after for n in x.shape[2:]]
            padded = x.new_zeros(len(x), *size, channels).permute(0, 3, 1, 2)  # in channels_last
            padded[:, :, before : size[0] - after : up, before : size[1] - after : up] = x
            x, before = padded, 0
        if x.is_cuda:  # cuDNN takes 2.5 times as long in channels_last
            y = conv2d(x.contiguous(), taps.expand(channels, 1, 4, 4), stride=down, padding=before, groups=channels)
            return y.contiguous(memory_format=torch.channels_last)
        return conv2d(x, taps.expand(channels, 1, 4, 4), stride=down, padding=before, groups=channels)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, taps, *ctx.settings = inputs
        ctx.save_for_backward(taps)
        ctx.sizes = x.shape[-1], output.shape[-1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (taps,), (up, down, (before, _)), (size, outputs) = ctx.saved_tensors, ctx.settings, ctx.sizes
        padding = 3 - before, (size - 1) * up - outputs * down + before + 1
        return _Resampling.apply(gradient, taps, down, up, padding), None, None, None, None


class _Activation(Function):
    """Works in place, and saves only its output for the backward pass."""

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, clamp: float | None) -> Tensor:
        if triton_kernels.available(x) and triton_kernels.dense(x):
            return triton_kernels.activate_(x, bias, SLOPE, clamp)
        if bias is not None:
            x += bias.to(x.dtype).view(-1, *[1] * (x.ndim - 2))
        x = leaky_relu(x, SLOPE, inplace=True)
        return x if clamp is None else hardtanh(x, -clamp, clamp, inplace=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, bias, ctx.clamp = inputs
        ctx.mark_dirty(x)
        ctx.save_for_backward(output)
        ctx.dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        of_x = of_bias = _ActivationGradient.apply(gradient, y.detach(), ctx.clamp)
        if ctx.needs_input_grad[1]:
            of_bias = of_x.sum(dim=[0, *range(2, of_x.ndim)], dtype=ctx.dtype)
        return of_x, of_bias if ctx.needs_input_grad[1] else None, None


class _ActivationGradient(Function):
    """Linear in the gradient, so its derivative is the same function. Its second derivative by x is 0."""

    @staticmethod
    def forward(gradient: Tensor, y: Tensor, clamp: float | None) -> Tensor:
        if triton_kernels.available(gradient):
            return triton_kernels.activate_backward(gradient, y, SLOPE, clamp)
        if clamp is not None:
            gradient = torch.ops.aten.hardtanh_backward(gradient, y, -clamp, clamp)
        return torch.ops.aten.leaky_relu_backward(gradient, y, SLOPE, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.clamp = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _ActivationGradient.apply(gradient, *ctx.saved_tensors, ctx.clamp), None, None


# PyTorch inspects the signature in every call, which takes as long as the smallest operations. So store it once.
for _function in (_Convolution, _WeightGradient, _WithSquares, _Resampling, _Activation, _ActivationGradient):
    _forward: Any = _function.forward
    _forward.__signature__ = inspect.signature(_forward)


def activate(x: Tensor, clamp: float | None, bias: Tensor | None = None) -> Tensor:
    """Add `bias` (C,) to x (N, C, ...), then leaky ReLU of slope 0.2, then a clamp to [-clamp, clamp]. None: no clamp.

    Works in place: nothing else may use x.
    """
    return _Activation.apply(x, bias, clamp)
