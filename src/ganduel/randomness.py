"""Random numbers as a pure function of (seed, stream). They can be drawn again, for any part of a batch or one image.

Every image has its own 64-bit seed. Its latent, its mirroring and its augmentation are hashed from that seed and the
name of a stream. So a run can resume at any step, and image i of step k gets the same random numbers for any number of
micro batches and processes. The hash is the finalizer of SplitMix64 (Steele, Lea and Flood 2014). It gives the same
result on every device.
"""

import hashlib
import math

import torch
from torch import Tensor

from ganduel.system.device import move

# 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB, negative because PyTorch's integers are signed.
GOLDEN = -0x61C8864680B583EB
FACTORS = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def key(*parts: int | str) -> int:
    """Hash integers and names to one 63-bit seed."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seeds(*parts: int | str, first: int, count: int, stride: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """Seeds of the images `first`, `first + stride`, ... under the key `parts`: int64 (count,)."""
    index = torch.arange(first, first + count * stride, stride)
    # The host hashes these few numbers faster than it could launch the GPU's kernels.
    return move(_mix(key(*parts) + index * GOLDEN), torch.device(device))


def uniform(seed: Tensor, shape: tuple[int, ...], stream: str) -> Tensor:
    """Uniform float32 numbers in (0, 1), shape (N, *shape), for the seeds (N,)."""
    return _unit(_shift(_bits(seed, shape, stream), 41))


def normal(seed: Tensor, shape: tuple[int, ...], stream: str) -> Tensor:
    """Standard normal float32 numbers, shape (N, *shape), for the seeds (N,).

    Box and Muller (1958), from two 23-bit uniform numbers of one 64-bit hash. No absolute value exceeds 5.8.
    """
    bits = _bits(seed, shape, stream)
    radius = (-2 * _unit(_shift(bits, 41)).log()).sqrt()
    return radius * (2 * math.pi * _unit((bits >> 1) & 0x7FFFFF)).cos()


def _bits(seed: Tensor, shape: tuple[int, ...], stream: str) -> Tensor:
    start = _mix(seed ^ key(stream)).view(-1, 1)
    counter = torch.arange(1, math.prod(shape) + 1, device=seed.device) * GOLDEN
    return _mix(start + counter).view(len(seed), *shape)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * FACTORS[0]
    x = (x ^ _shift(x, 27)) * FACTORS[1]
    return x ^ _shift(x, 31)


def _shift(x: Tensor, n: int) -> Tensor:
    """Logical right shift. PyTorch's `>>` copies the sign bit."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def _unit(x: Tensor) -> Tensor:
    """Map 23-bit integers to the midpoints of 2^23 equal parts of (0, 1).

    This is exact, because x + 0.5 fits the 24 bits of a float32. With one bit more it would round, at the top to 1.
    """
    return (x.float() + 0.5) * 2.0**-23
