"""Winograd convolutions: 3x3 kernels with a quarter of the multiplications, for float32 on CPUs.

PyTorch has none for CPUs; on GPUs cuDNN uses them. The algorithm is F(4x4, 3x3) of Lavin and Gray 2016, "Fast
Algorithms for Convolutional Neural Networks". A tile of 4x4 outputs needs 6x6 inputs. Inputs and weights are
transformed. Then each of the 36 positions of a tile is one matrix product over feature maps. The relative error is
about 3e-6, three times that of a direct convolution.
"""

import threading

import torch
from torch import Tensor
from torch.nn.functional import pad

MAPS, TILES = 256, 64  # with fewer of either, a direct convolution is as fast (scripts/benchmark_winograd.py)
WASTE = 1.3  # upper limit of outputs computed over outputs needed
AT_ONCE = 256  # tiles of whole images at once; more do not fit the cache

# The transforms of section 4.3, rows and columns in one matrix: inputs (36, 36), weights (36, 9), outputs (16, 36).
_INPUTS, _WEIGHTS, _RESULTS = (
    torch.kron(matrix, matrix)
    for matrix in (
        torch.tensor(
            [
                [4.0, 0, -5, 0, 1, 0],
                [0, -4, -4, 1, 1, 0],
                [0, 4, -4, -1, 1, 0],
                [0, -2, -1, 2, 1, 0],
                [0, 2, -1, -2, 1, 0],
                [0, 4, 0, -5, 0, 1],
            ]
        ),
        torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
        torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
    )
)

_memory = threading.local()


def suits(x: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    """Whether `convolve` can do a convolution of x (N, C, H, W), and is faster than PyTorch."""
    if type(x) is not Tensor or x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return False
    if weight.shape[2:] != (3, 3) or min(weight.shape[:2]) < MAPS or stride != 1 or padding < 0:
        return False
    height, width = (size + 2 * padding - 2 for size in x.shape[2:])
    tiles = -(-height // 4) * -(-width // 4)  # the outputs of edge tiles may be needed only in part
    return len(x) * tiles >= TILES and 16 * tiles <= WASTE * height * width


def convolve(x: Tensor, weight: Tensor, padding: int, turned: bool) -> Tensor:
    """Convolve x (N, C, H, W) with weights (out, C, 3, 3) to (N, out, H + 2 padding - 2, W + 2 padding - 2).

    If `turned`, the weights are (C, out, 3, 3) and are rotated by 180 degrees. This is the adjoint of a convolution.
    """
    transform = _WEIGHTS.flip(1) if turned else _WEIGHTS
    weights = _scratch(36, *weight.shape[:2])
    torch.mm(transform, weight.permute(2, 3, 0, 1).reshape(9, -1), out=weights.view(36, -1))
    weights = weights if turned else weights.mT
    height, width = (size + 2 * padding - 2 for size in x.shape[2:])
    whole = len(x), weights.shape[2], height + -height % 4, width + -width % 4
    y = torch.empty(whole, memory_format=torch.channels_last)
    for inputs, outputs in zip(_tiles(x, padding, 6), _tiles(y, 0, 4), strict=True):
        results = _RESULTS @ (_transformed(inputs) @ weights).transpose(0, 1)
        outputs.copy_(results.view(outputs.shape))
    return y if y.shape[2:] == (height, width) else y[:, :, :height, :width].clone(memory_format=torch.channels_last)


def weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The gradient of the weights (out, C, 3, 3), from the input x and the gradient of the output, in the memory format
    of the weights."""
    total = _scratch(36, *weight.shape[:2])
    kept = 0  # factor of the old total; 0 at first, because the memory is not cleared
    for inputs, outputs in zip(_tiles(x, padding, 6), _tiles(gradient, 0, 4), strict=True):
        results = _RESULTS.T @ outputs.reshape(-1, 16, outputs.shape[-1])
        total.baddbmm_(results.permute(1, 2, 0), _transformed(inputs), beta=kept)
        kept = 1
    kernel = (_WEIGHTS.T @ total.view(36, -1)).view(3, 3, *weight.shape[:2])
    return torch.empty_like(weight).copy_(kernel.permute(2, 3, 0, 1))


def _scratch(*shape: int) -> Tensor:
    """Reused memory of this thread, for large temporary tensors. Allocating memory takes longer than filling it."""
    kept = vars(_memory)
    name = str(shape)
    if name not in kept:
        with torch.inference_mode(False):  # else only inference mode could write to it
            kept[name] = torch.empty(shape)
    return kept[name]


def _tiles(x: Tensor, padding: int, size: int) -> list[Tensor]:
    """Tiles of x with stride 4, in chunks of whole images: (n, rows, columns, size, size, C). They are views of x, or
    of a padded copy if x must be padded."""
    missing = [-(n + 2 * padding - size) % 4 for n in x.shape[2:]]
    around = [padding, padding + missing[1], padding, padding + missing[0]]
    padded = pad(x, around) if any(around) else x
    tiles = padded.permute(0, 2, 3, 1).unfold(1, size, 4).unfold(2, size, 4).permute(0, 1, 2, 4, 5, 3)
    return list(tiles.split(max(1, AT_ONCE // (tiles.shape[1] * tiles.shape[2]))))


def _transformed(inputs: Tensor) -> Tensor:
    """The transform (36, tiles, C) of 6x6 input tiles."""
    return (_INPUTS @ inputs.reshape(-1, 36, inputs.shape[-1])).transpose(0, 1)
