"""The order of an epoch: permutations that are computed number by number."""

import math
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from ganduel import randomness
from ganduel.data.order import MIXED, ROUNDS, Sharded, Shuffled, permuted
from ganduel.data.streaming import OPEN

BILLION = 10**9


def image_by_hand(number: int, count: int, key: int) -> int:
    """The permutation in Python's own numbers, from the description in the module."""
    word = 2**64

    def hashed(x: int) -> int:
        x = x * (randomness.FACTORS[0] % word) % word
        x ^= x >> 32
        return x * (randomness.FACTORS[1] % word) % word

    keys = [hashed((key + (i + 1) * (randomness.GOLDEN % word)) % word) for i in range(ROUNDS)]
    rows = math.isqrt(count - 1) + 1
    columns = -(-count // rows)
    while True:
        row, column = divmod(number, columns)
        for i in range(0, ROUNDS, 2):
            row = (row + (hashed((column + keys[i]) % word) >> 33)) % rows
            column = (column + (hashed((row + keys[i + 1]) % word) >> 33)) % columns
        number = row * columns + column
        if number < count:
            return number


@pytest.mark.parametrize("count", [1, 2, 3, 10, 64, 100, 101, BILLION])
def test_numbers_by_hand(count: int) -> None:
    key = randomness.key(5, "order", 2)
    numbers = sorted({0, 1 % count, count // 3, count - 1})
    assert permuted(np.array(numbers), count, key).tolist() == [image_by_hand(i, count, key) for i in numbers]


@pytest.mark.parametrize("counts", [range(1, 300), (1000, 4095, 4096, 4097, 65535, 65537, 99991)])
def test_each_number_once(counts: range | tuple[int, ...]) -> None:
    for count in counts:
        for key in (0, 1, 2**63 - 1):
            found = permuted(np.arange(count), count, key)
            assert np.array_equal(np.sort(found), np.arange(count)), (count, key)


def test_permutations_of_many_sizes_at_once() -> None:
    counts = np.array([1, 2, 7, 100, 7, 99, BILLION])
    keys = np.arange(7) ** 5
    index = counts // 2
    alone = [permuted(index[i : i + 1], int(counts[i]), int(keys[i])).item() for i in range(7)]
    assert permuted(index, counts, keys).tolist() == alone


def uniform(counted: np.ndarray, limit: float = 1e-6) -> bool:
    """Whether counts may be those of equally frequent cases, by Pearson's chi-square."""
    expected = counted.sum() / counted.size
    return float(chi2.sf(((counted - expected) ** 2 / expected).sum(), counted.size - 1)) > limit


def drawn(count: int, numbers: int, keys: int) -> np.ndarray:
    """The images of the first `numbers` of many permutations (keys, numbers)."""
    key = np.array([randomness.key(i) for i in range(keys)]).repeat(numbers)
    return permuted(np.tile(np.arange(numbers), keys), np.full(len(key), count), key).reshape(keys, numbers)


def test_all_permutations_of_four_are_equally_frequent() -> None:
    code = drawn(4, 4, 24_000) @ 4 ** np.arange(4)
    _, counted = np.unique(code, return_counts=True)
    assert len(counted) == 24 and uniform(counted)


@pytest.mark.parametrize("count", [7, 10, 16, 30])
def test_all_pairs_of_neighbours_are_equally_frequent(count: int) -> None:
    found = drawn(count, 3, 20_000)
    for one, two in ((0, 1), (1, 2)):
        pairs = np.bincount(found[:, one] * count + found[:, two], minlength=count**2).reshape(count, count)
        assert not np.diagonal(pairs).any() and uniform(pairs[~np.eye(count, dtype=bool)])


@pytest.mark.parametrize("count", [60_000, BILLION])
def test_no_structure_is_visible(count: int) -> None:
    """Places of images, steps between neighbours, and both with the next epoch's, against equal frequencies."""
    numbers = np.arange(20_000) + count // 7
    first, second = (Shuffled(0, count)(epoch, numbers) / count for epoch in (0, 1))
    for x in (first, second, np.diff(first) % 1, (first[2:] - first[:-2]) % 1, (first[245:] - first[:-245]) % 1):
        assert uniform(np.histogram(x, 100, (0, 1))[0])
    for a, b in ((first[:-1], first[1:]), (first, second)):
        assert uniform(np.histogram2d(a, b, 20, ((0, 1), (0, 1)))[0])
    assert abs(np.corrcoef(first, numbers)[0, 1]) < 5 / math.sqrt(len(numbers))


def test_a_billion_images_take_no_memory() -> None:
    tracemalloc.start()
    found = Shuffled(0, BILLION)(0, np.arange(64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len({*found.tolist()}) == 64 and found.max() < BILLION and peak < 1e5


# Shards

SIZES = [50] * 30 + [17] + [80] * 9


@pytest.mark.parametrize("sizes", [SIZES, SIZES[:3], [100], [0, 3, 0, 1, 1, 2, 5, 1, 0, 1, 1, 1, 1]])
def test_each_image_once_of_shards(sizes: list[int]) -> None:
    order = Sharded(0, np.array(sizes))
    epochs = [order(epoch, np.arange(sum(sizes))) for epoch in range(3)] + [
        Sharded(1, np.array(sizes))(0, numbers(sizes))
    ]
    assert all(sorted(epoch.tolist()) == list(range(sum(sizes))) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4
    some = np.array([0, sum(sizes) - 1, sum(sizes) // 2])  # in any order, as after resuming
    assert np.array_equal(Sharded(0, np.array(sizes))(2, some), epochs[2][some])


@pytest.mark.parametrize("sizes", [SIZES, SIZES[:3], [100]])
def test_shards_are_used_a_few_at_a_time(sizes: list[int]) -> None:
    shards, count = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)), sum(sizes)
    for epoch in range(3):
        turns = shards[torch.from_numpy(Sharded(0, np.array(sizes))(epoch, numbers(sizes)))].tolist()
        assert fetched(turns, OPEN) <= len(sizes) + min(MIXED, len(sizes))
        for start in range(0, count - 64, 80):  # everywhere, the beginning included, several are mixed
            assert len(set(turns[start : start + 64])) >= min(len(sizes), MIXED) - 2
        middles = torch.stack([torch.tensor(turns).eq(shard).nonzero().float().median() for shard in shards.unique()])
        assert len(sizes) < 10 or 0.2 < float((middles.diff() > 0).float().mean()) < 0.8  # in no order


def numbers(sizes: list[int]) -> np.ndarray:
    return np.arange(sum(sizes))


def fetched(turns: list[int], kept: int) -> int:
    """How often a shard is fetched if the last few are kept."""
    held: OrderedDict[int, None] = OrderedDict()
    count = 0
    for shard in turns:
        count += shard not in held
        held[shard] = None
        held.move_to_end(shard)
        if len(held) > kept:
            held.popitem(last=False)
    return count
