"""3x3 convolutions with a quarter of the multiplications, for float32 on CPUs, where PyTorch has none of the kind; what
cuDNN does by itself.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", F(4x4, 3x3): each tile of 4x4 results takes
6x6 inputs. Once inputs and weights are transformed, tiles are multiplied by weights in each of 36 places, over feature
maps: 36 matrix products. The differences from exact results are about three times those of a direct convolution, 3e-6
of them in all.
"""

import threading

import torch
from torch import Tensor
from torch.nn.functional import pad

MAPS, TILES = 256, 64  # with fewer of either, direct convolutions are as fast (scripts/benchmark_winograd.py)
WASTE = 1.3  # times as many results as are wanted, at most
AT_ONCE = 256  # tiles, of whole images: more would leave the cache

# The transforms of section 4.3, of both directions in one: of inputs (36, 36), of weights (36, 9), of results (16, 36).
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
    """Whether a convolution of x (N, C, H, W) is one of these, and gains by it."""
    if type(x) is not Tensor or x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        return False
    if weight.shape[2:] != (3, 3) or min(weight.shape[:2]) < MAPS or stride != 1 or padding < 0:
        return False
    height, width = (size + 2 * padding - 2 for size in x.shape[2:])
    tiles = -(-height // 4) * -(-width // 4)  # those at the edges may be computed for a part of them
    return len(x) * tiles >= TILES and 16 * tiles <= WASTE * height * width


def convolve(x: Tensor, weight: Tensor, padding: int, turned: bool) -> Tensor:
    """(N, C, H, W) by weights (out, C, 3, 3) to (N, out, H + 2 padding - 2, ...), or by (C, out, 3, 3) `turned` by half
    a circle, as the adjoint takes them."""
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
    """That of a convolution's weights (out, C, 3, 3), laid out as they are, from its input and the gradient of its
    output."""
    total = _scratch(36, *weight.shape[:2])
    kept = 0  # of the total: nothing at first
    for inputs, outputs in zip(_tiles(x, padding, 6), _tiles(gradient, 0, 4), strict=True):
        results = _RESULTS.T @ outputs.reshape(-1, 16, outputs.shape[-1])
        total.baddbmm_(results.permute(1, 2, 0), _transformed(inputs), beta=kept)
        kept = 1
    kernel = (_WEIGHTS.T @ total.view(36, -1)).view(3, 3, *weight.shape[:2])
    return torch.empty_like(weight).copy_(kernel.permute(2, 3, 0, 1))


def _scratch(*shape: int) -> Tensor:
    """Memory of this thread's for what is large and soon forgotten; new memory takes longer to get than to fill."""
    kept = vars(_memory)
    name = str(shape)
    if name not in kept:
        with torch.inference_mode(False):  # or it could be written to in that mode alone
            kept[name] = torch.empty(shape)
    return kept[name]


def _tiles(x: Tensor, padding: int, size: int) -> list[Tensor]:
    """Tiles of x, each 4 behind the one before, of so many images at once: (n, rows, columns, size, size, C), views but
    where something is missing around x."""
    missing = [-(n + 2 * padding - size) % 4 for n in x.shape[2:]]
    around = [padding, padding + missing[1], padding, padding + missing[0]]
    padded = pad(x, around) if any(around) else x
    tiles = padded.permute(0, 2, 3, 1).unfold(1, size, 4).unfold(2, size, 4).permute(0, 1, 2, 4, 5, 3)
    return list(tiles.split(max(1, AT_ONCE // (tiles.shape[1] * tiles.shape[2]))))


def _transformed(inputs: Tensor) -> Tensor:
    """Of 6x6 tiles: (36, tiles, C)."""
    return (_INPUTS @ inputs.reshape(-1, 36, inputs.shape[-1])).transpose(0, 1)
