"""Triton's kernels for what PyTorch does slowly on CUDA: the low-pass filter, and bias with activation.

`available` says whether a tensor suits them. If it does not, `convolution` calls PyTorch, with the same values up to
rounding. cuDNN takes up to 15 times as long for the filter (docs/benchmarks.md). The kernels work in channels_last, and
add in float32.
"""

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ganduel.system.terminal import say

TAPS = 4  # side of the filter
TILE = 2048  # values that a program of the filter or the activation computes
CHANNELS = 128  # of them, channels at most

enabled = True  # set by the key `triton`
installed = importlib.util.find_spec("triton") is not None


def available(x: Tensor) -> bool:
    """Whether the kernels take x: feature maps (N, C, H, W) or vectors (N, C) on CUDA, of at most 32 bits."""
    if not (enabled and installed and x.is_cuda) or torch.compiler.is_compiling():
        return False
    return x.dtype in (torch.float32, torch.bfloat16, torch.float16) and works(x.device)


@cache
def works(device: torch.device) -> bool:
    """Whether kernels run on a device. If they do not, a line says why, once.

    Triton needs a GPU of compute capability 7.0 and, to start its kernels, a C compiler.
    """
    try:
        activate_(torch.ones(1, 1, device=device), None, 0.2, None)
    except Exception as error:  # of Triton, of the driver or of the compiler: PyTorch does the same more slowly
        reason = " ".join(str(error).split())[:200]
        say(f"note: triton: its kernels do not run here ({reason}); PyTorch works instead, but StyleGAN2 is slower")
        return False
    return True


def resample(x: Tensor, taps: Tensor, up: int, down: int, padding: tuple[int, int]) -> Tensor:
    """Filter x (N, C, H, W) with `taps` (4, 4): see `convolution.Resample`."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, channels, height, width = x.shape
    rows, columns = ((size * up + sum(padding) - TAPS) // down + 1 for size in (height, width))
    y = torch.empty(n, channels, rows, columns, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    arguments = x, y, taps.contiguous(), channels, height, width, rows, columns, padding[0], n * rows * columns
    _launch("low_pass", y, arguments, UP=up, DOWN=down)
    return y


def activate_(x: Tensor, bias: Tensor | None, slope: float, clamp: float | None) -> Tensor:
    """Add `bias` (C,) to x, then leaky ReLU, then a clamp to [-clamp, clamp], in place. None: no bias, no clamp."""
    biases = x if bias is None else bias.contiguous()
    limit = float("inf") if clamp is None else clamp
    arguments = x, biases, x.shape[1], x.numel() // x.shape[1], slope, limit
    _launch("activate", x, arguments, BIAS=bias is not None)
    return x


def activate_backward(gradient: Tensor, y: Tensor, slope: float, clamp: float | None) -> Tensor:
    """The gradient of x from the gradient of y, the output of `activate_`."""
    gradient = _in_order(gradient)
    result = torch.empty_like(gradient)
    limit = float("inf") if clamp is None else clamp
    arguments = gradient, _in_order(y), result, y.shape[1], y.numel() // y.shape[1], slope, limit
    _launch("activate_backward", result, arguments)
    return result


def dense(x: Tensor) -> bool:
    """Whether x lies in memory as `activate_` needs it, which changes x in place."""
    return x.is_contiguous(memory_format=_order(x))


def _order(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.contiguous_format


def _in_order(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=_order(x))


def _launch(name: str, result: Tensor, arguments: tuple[Any, ...], **constants: Any) -> None:
    """Start a kernel with one program for each tile of (pixels, channels) of `result`."""
    from ganduel.models import triton_source

    channels = result.shape[1]
    wide = min(CHANNELS, 1 << (channels - 1).bit_length())
    high = TILE // wide
    grid = -(-(result.numel() // channels) // high), -(-channels // wide)
    with torch.cuda.device_of(result):
        getattr(triton_source, name)[grid](*arguments, **constants, HIGH=high, WIDE=wide)
