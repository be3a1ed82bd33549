"""Linear maps of images with mirrored edges: wavelet filters, moving and filtering.

They are matrix products and one bilinear sampling, so they can be differentiated any number of times. No shape
depends on how far an image is moved.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Low-pass filters of the symlets with 2 and 6 vanishing moments (Daubechies 1992, "Ten Lectures on Wavelets").
SYM2 = np.array([-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025])
SYM6 = np.array(
    [
        0.015404109327027373,
        0.0034907120842174702,
        -0.11799011114819057,
        -0.048311742585633,
        0.4910559419267466,
        0.787641141030194,
        0.3379294217276218,
        -0.07263752278646252,
        -0.021060292512300564,
        0.04472490177066578,
        0.0017677118642428036,
        -0.007800708325034148,
    ]
)
REACH = len(SYM6) - 2  # samples beyond the image, in the doubled grid, that halving needs

CACHE = 2**20  # pixels in a CPU's cache; moving a large batch in parts of this size is 1.5 times faster


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Move images (N, C, H, W). Output pixel (x, y) comes from `matrix` (N, 3, 3) times (x, y, 1), in pixels from the
    image's centre.

    The filter sym6 doubles the image, the doubled image is sampled bilinearly, and the adjoint of the doubling halves
    the result (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix B). An image
    with mirrored edges is periodic; the doubled image holds one period.
    """
    size = len(images)
    if images.device.type == "cpu":
        size = max(1, CACHE // (16 * images[0].numel()))  # the doubled image has 16 times the pixels
    parts = zip(images.split(size), matrix.split(size), strict=True)
    return torch.cat([_move(*part) for part in parts])


def _move(images: Tensor, matrix: Tensor) -> Tensor:
    height, width = images.shape[2:]
    doubled = _separable(images, _doubling, height, width)
    # The source of each sample, in samples of the doubled image; every second one is a pixel.
    x, y = (
        (torch.arange(2 * size + REACH, device=images.device) - REACH // 2) / 2 - (size - 1) / 2
        for size in (width, height)
    )
    along, down = matrix[:, :2, 0, None, None] * x, matrix[:, :2, 1, None, None] * y[:, None]
    position = 2 * (along + down + matrix[:, :2, 2, None, None])  # (N, 2, rows, columns)
    folded = [
        (position[:, i] + size - 1).remainder(4 * (size - 1)) / (2 * (size - 1)) - 1
        for i, size in enumerate((width, height))
    ]
    sampled = _Sample.apply(doubled, torch.stack(folded, dim=-1).to(images.dtype))
    return _separable(sampled, _halving, height, width)


def filter_bands(images: Tensor, gains: Tensor) -> Tensor:
    """Multiply four frequency bands of images (N, C, H, W), the coarsest first, by `gains` (N, 4) along both axes."""
    down, along = (
        (gains.to(images.dtype) @ _constant(_bands, size, images.device, images.dtype).flatten(1)).view(
            -1, 1, size, size
        )
        for size in images.shape[2:]
    )
    return down @ images @ along.mT


def _separable(images: Tensor, matrix: Callable[[int], np.ndarray], height: int, width: int) -> Tensor:
    down, along = (_constant(matrix, size, images.device, images.dtype) for size in (height, width))
    return down @ (images @ along.mT)


@lru_cache
def _constant(matrix: Callable[[int], np.ndarray], size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`matrix(size)` on the device. It is cached, because the host waits for a copy to the device."""
    return torch.from_numpy(matrix(size)).to(dtype).to(device)


def _doubling(size: int) -> np.ndarray:
    """Matrix (4 size - 3, size) from a line of pixels to one period of the doubled, mirrored line, which ends with its
    first sample again."""
    rows = np.arange(4 * (size - 1) + 1)[:, None]
    twice = rows + len(SYM6) // 2 - 1 - np.arange(len(SYM6))  # twice the pixel index of each tap
    return _matrix(rows, twice // 2, np.where(twice % 2 == 0, 2 * SYM6 / SYM6.sum(), 0), size)


def _halving(size: int) -> np.ndarray:
    """Matrix (size, 2 size + REACH) from samples, two per pixel and REACH more, back to pixels."""
    rows, taps = np.arange(size)[:, None], np.arange(len(SYM6))
    return _matrix(rows, 2 * rows + taps, SYM6 / SYM6.sum(), 2 * size + REACH)


def _bands(size: int) -> np.ndarray:
    """Filters of the four frequency bands on a mirrored line, the coarsest first: (4, size, size). Their sum is the
    identity.

    The filter bank of sym2 splits off one band after another. Its low-pass and high-pass filters are each applied
    forwards and backwards.
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    signs = (-1) ** np.arange(len(SYM2))
    high = np.convolve(SYM2 * signs, (SYM2 * signs)[::-1]) / 2
    bands = [np.ones(1)]
    for _ in range(3):
        spread = [np.zeros(2 * len(band) - 1) for band in bands]
        for wide, band in zip(spread, bands, strict=True):
            wide[::2] = band
        bands = [np.convolve(wide, low) for wide in spread] + [high]
    rows = np.arange(size)[:, None]
    return np.stack([_matrix(rows, rows + np.arange(len(band)) - len(band) // 2, band, size) for band in bands])


def _matrix(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """A matrix with `values` at (rows, columns). Columns outside [0, size) are mirrored into it."""
    last = size - 1
    columns = last - np.abs(last - columns % (2 * last))
    matrix = np.zeros((len(rows), size))
    np.add.at(matrix, tuple(np.broadcast_arrays(rows, columns)), np.broadcast_to(values, columns.shape))
    return matrix


class _Sample(torch.autograd.Function):
    """Bilinear values of images (N, C, H, W) at a grid (N, h, w, 2); -1 and 1 are the centres of the outermost pixels.

    This is a linear map of the images. PyTorch has its adjoint, but cannot differentiate the adjoint. The grid gets no
    gradient.
    """

    @staticmethod
    def forward(images: Tensor, grid: Tensor) -> Tensor:
        return torch.ops.aten.grid_sampler_2d(images, grid, 0, 0, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        images, grid = inputs
        ctx.size = images.shape
        ctx.save_for_backward(grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Spread.apply(gradient, grid, ctx.size), None


class _Spread(torch.autograd.Function):
    """The adjoint of _Sample: from values (N, C, h, w) at a grid to images of `size` (N, C, H, W)."""

    @staticmethod
    def forward(values: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
        shape = values.new_empty(1).expand(size)  # the kernel reads only the shape of the images
        return torch.ops.aten.grid_sampler_2d_backward(values, shape, grid, 0, 0, True, [True, False])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Sample.apply(gradient, ctx.saved_tensors[0]), None, None
