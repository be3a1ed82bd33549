"""Random numbers as a pure function of (seed, stream), so that they can be drawn again, sliced and sampled one by one.

Every image of a batch carries a 64-bit seed of its own, and everything random about it (its latent, its mirroring,
its augmentation) is hashed from that seed and the name of a stream. So a run can be resumed at any step, and neither
the number of micro batches nor of processes changes what image i of step k meets. The hash is the finalizer of
SplitMix64 (Steele, Lea and Flood 2014); the result is the same on every device.
"""

import hashlib
import math

import torch
from torch import Tensor

from ganduel.system.device import move

# 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB, for PyTorch's integers have a sign.
GOLDEN = -0x61C8864680B583EB
FACTORS = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def key(*parts: int | str) -> int:
    """Hash integers and names to one 63-bit seed, for whatever takes a single number."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seeds(*parts: int | str, first: int, count: int, stride: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """Seeds of images `first`, `first + stride`, ... under this key: int64 (count,)."""
    index = torch.arange(first, first + count * stride, stride)
    # So few numbers are sooner hashed by the host than a GPU is told of every operation.
    return move(_mix(key(*parts) + index * GOLDEN), torch.device(device))


def uniform(seed: Tensor, shape: tuple[int, ...], stream: str) -> Tensor:
    """Float32 numbers in (0, 1), shape (N, *shape), for the seeds (N,)."""
    return _unit(_shift(_bits(seed, shape, stream), 41))


def normal(seed: Tensor, shape: tuple[int, ...], stream: str) -> Tensor:
    """Float32 numbers of the standard normal distribution, shape (N, *shape), for the seeds (N,).

    Box and Muller (1958) on two 23-bit uniforms taken from one 64-bit hash; no number exceeds 5.8.
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
    """Logical shift to the right; PyTorch's own copies the sign."""
    return (x >> n) & ((1 << (64 - n)) - 1)


def _unit(x: Tensor) -> Tensor:
    """23-bit integers to the middles of 2^23 equal parts of (0, 1).

    Exactly, for x + 0.5 has the 24 bits of a float32. One bit more would round, at the upper end to 1.
    """
    return (x.float() + 0.5) * 2.0**-23
