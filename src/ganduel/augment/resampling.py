"""Linear maps of images whose edges are mirrored for ever: wavelet filters, moving and filtering.

All of them are matrix products and one gather with bilinear weights, so that they can be differentiated as often as
one likes, and none of their shapes depends on how far an image is moved.
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
REACH = len(SYM6) - 2  # samples beyond the image, in its doubled grid, that the way back down needs

CACHE = 2**20  # pixels that a CPU holds in its cache: in parts of that size, a large batch is moved 1.5 times faster


def move(images: Tensor, matrix: Tensor) -> Tensor:
    """Images (N, C, H, W) of which pixel (x, y) of the result comes from `matrix` (N, 3, 3) times (x, y, 1), counted in
    pixels from the image's centre.

    Doubled by the filter sym6, sampled bilinearly at twice the resolution, and halved by the adjoint of the doubling
    (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix B). Reflected at its
    edges, an image repeats; the doubled image holds one period of that.
    """
    size = len(images)
    if images.device.type == "cpu":
        size = max(1, CACHE // (16 * images[0].numel()))  # the doubled image has so many times the pixels
    parts = zip(images.split(size), matrix.split(size), strict=True)
    return torch.cat([_move(*part) for part in parts])


def _move(images: Tensor, matrix: Tensor) -> Tensor:
    height, width = images.shape[2:]
    doubled = _separable(images, _doubling, height, width)
    # Where each sample comes from, in samples of the doubled image, of which every second is a pixel.
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
    """Images whose four octaves, the coarsest first, are amplified by `gains` (N, 4), along both axes."""
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
    """Made once, for a copy to a device would be waited for."""
    return torch.from_numpy(matrix(size)).to(dtype).to(device)


def _doubling(size: int) -> np.ndarray:
    """One period of the doubled, mirrored line of `size` pixels, and its first sample again: (4 size - 3, size)."""
    rows = np.arange(4 * (size - 1) + 1)[:, None]
    twice = rows + len(SYM6) // 2 - 1 - np.arange(len(SYM6))  # twice the pixel that each tap meets
    return _matrix(rows, twice // 2, np.where(twice % 2 == 0, 2 * SYM6 / SYM6.sum(), 0), size)


def _halving(size: int) -> np.ndarray:
    """Back to `size` pixels from two samples a pixel and REACH more: (size, 2 size + REACH)."""
    rows, taps = np.arange(size)[:, None], np.arange(len(SYM6))
    return _matrix(rows, 2 * rows + taps, SYM6 / SYM6.sum(), 2 * size + REACH)


def _bands(size: int) -> np.ndarray:
    """The filter of each octave on a mirrored line, the coarsest first: (4, size, size). They add up to the identity.

    Each is split off by the filter bank of sym2, whose low and high-pass filters are applied there and back.
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
    """A matrix with `values` at (rows, columns), where columns outside of [0, size) are mirrored into it."""
    last = size - 1
    columns = last - np.abs(last - columns % (2 * last))
    matrix = np.zeros((len(rows), size))
    np.add.at(matrix, tuple(np.broadcast_arrays(rows, columns)), np.broadcast_to(values, columns.shape))
    return matrix


class _Sample(torch.autograd.Function):
    """Bilinear values of images (N, C, H, W) at a grid (N, h, w, 2) from -1 to 1, the outermost pixels.

    A linear map of the images, whose adjoint PyTorch has but cannot differentiate. The grid gets no gradient.
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
    """The adjoint of _Sample: images of `size` (N, C, H, W) from values (N, C, h, w) at a grid."""

    @staticmethod
    def forward(values: Tensor, grid: Tensor, size: torch.Size) -> Tensor:
        shape = values.new_empty(1).expand(size)  # of the images it takes nothing else
        return torch.ops.aten.grid_sampler_2d_backward(values, shape, grid, 0, 0, True, [True, False])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Sample.apply(gradient, ctx.saved_tensors[0]), None, None
