"""The order in which training meets its images: every epoch is a random permutation that needs no memory.

`permuted` computes single numbers of a permutation, so a set of 10^9 images is opened at once, and a run resumes
anywhere. It is a generalised Feistel cipher (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): two
halves of a number take turns, and each is shifted by a hash of the other. Every step can be undone, so no two numbers
meet. A number that has become too large is permuted again until it is back in the range ("cycle walking").
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ganduel import randomness

VERSION = 2  # of the orders in this module; checkpoints without a version used torch.randperm
MIXED = 8  # shards whose images are mixed at any time
ROUNDS = 10  # with 6, not all pairs of ten numbers are equally frequent

Numbers = NDArray[np.int64]
_GOLDEN, _FACTOR, _OTHER = (np.uint64(x % 2**64) for x in (randomness.GOLDEN, *randomness.FACTORS))
_HALF, _TOP = np.uint64(32), np.uint64(33)


def permuted(index: Numbers, count: int | Numbers, key: int | Numbers) -> Numbers:
    """The places, int64 (N,), of the numbers `index` (N,) in a random permutation of range(count).

    `key` chooses the permutation. `count`, below 2^62, and `key` are numbers, or arrays (N,) with a permutation for
    each index.
    """
    size = np.asarray(count, np.uint64)
    rows = np.ceil(np.sqrt(size)).astype(np.uint64)
    columns = (size + rows - np.uint64(1)) // rows  # rows * columns is at least `count`, and hardly above
    turns = np.arange(1, ROUNDS + 1, dtype=np.uint64)[:, None]
    keys = _hash(np.atleast_1d(np.asarray(key)).astype(np.uint64) + turns * _GOLDEN)  # (ROUNDS, 1 or N)

    def once(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        row, column = x // columns, x % columns
        for i in range(0, ROUNDS, 2):
            row = (row + (_hash(column + keys[i]) >> _TOP)) % rows
            column = (column + (_hash(row + keys[i + 1]) >> _TOP)) % columns
        return row * columns + column

    found = once(index.astype(np.uint64))
    while (beyond := found >= size).any():  # numbers that have left the range go on until they are back
        found = np.where(beyond, once(found), found)
    return found.astype(np.int64)


def _hash(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64-bit numbers. The upper half of the result is more random."""
    x = x * _FACTOR
    x ^= x >> _HALF
    x *= _OTHER
    return x


class Shuffled:
    """Images in any order."""

    def __init__(self, seed: int | str, count: int):
        self.seed, self.count = seed, count

    def __call__(self, epoch: int, index: Numbers) -> Numbers:
        """The numbers of the images at the places `index` (N,) of an epoch."""
        return permuted(index, self.count, randomness.key(self.seed, "order", epoch))


class Sharded:
    """Images in shards. `MIXED` shards are in use at any time, so each shard is read once.

    An epoch has one slot for each shard. In a slot, one shard begins. It gives an equal slice of its images to that
    slot and to each of the following ones, until `MIXED` have had one. The last shards go on at the start of the epoch.
    So a slot mixes slices of `MIXED` shards. The shards, the images of each, and those of each slot are permuted.
    """

    def __init__(self, seed: int | str, sizes: Numbers):
        """`sizes` (S,) are the numbers of images in the shards. Images are numbered shard by shard."""
        self.seed = seed
        self.sizes = sizes[sizes > 0]
        self.starts = self.sizes.cumsum() - self.sizes
        self.tables = lru_cache(2)(self._tables)  # a batch may span two epochs

    def __call__(self, epoch: int, index: Numbers) -> Numbers:
        """The numbers of the images at the places `index` (N,) of an epoch."""
        shards, cuts, ends, key = self.tables(epoch)
        slot = np.searchsorted(ends, index, side="right")
        length = cuts[slot, -1]
        place = permuted(index - (ends[slot] - length), length, key + 2 * slot)
        part = (place[:, None] >= cuts[slot, 1:]).sum(1)  # which slice of the slot
        shard = shards[slot, part]
        size, mixed = self.sizes[shard], shards.shape[1]
        within = size * part // mixed + place - cuts[slot, part]
        return self.starts[shard] + permuted(within, size, key + 2 * shard + 1)

    def _tables(self, epoch: int) -> tuple[Numbers, Numbers, Numbers, int]:
        """Of each slot, the shards (S, M), the bounds of their slices (S, M + 1) and its end (S,); and the key."""
        count = len(self.sizes)
        mixed = min(MIXED, count)
        key = randomness.key(self.seed, "order", epoch)
        first = permuted(np.arange(count), count, randomness.key(self.seed, "shards", epoch))
        shards = np.stack([np.roll(first, part) for part in range(mixed)], axis=1)
        sizes = self.sizes[shards]
        slices = [sizes[:, p] * q // mixed - sizes[:, p] * p // mixed for p, q in pairwise(range(mixed + 1))]
        cuts = np.stack([np.zeros_like(self.sizes), *slices], axis=1).cumsum(1)
        return shards, cuts, cuts[:, -1].cumsum(), key
