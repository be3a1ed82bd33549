"""Measure what the order of an epoch costs: opening it, and a block of it, against a permutation in memory.

    python scripts/benchmark_order.py
    python scripts/benchmark_order.py --count 10000000 --rounds 15

Prints medians of processor time, which other programs hardly change, and the ratio within each round.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from ganduel.data.image_set import BLOCK
from ganduel.data.order import Sharded, Shuffled


def seconds(do: Callable[[], object], calls: int = 1) -> float:
    """Processor time of one call."""
    start = time.process_time()
    for _ in range(calls):
        do()
    return (time.process_time() - start) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000_000, help="images for the comparison with torch.randperm")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    block, billion = np.arange(BLOCK), 10**9
    shards = np.full(billion // 16_384, 16_384)
    rounds = []
    for i in range(given.rounds):
        small = Shuffled(i, given.count)
        taken = {
            "open 10^9 images, and order a block": seconds(lambda i=i: Shuffled(i, billion)(0, block)),
            f"the same in {len(shards):,} shards": seconds(lambda i=i: Sharded(i, shards)(0, block)),
            f"a block of {BLOCK}": seconds(lambda s=small: s(0, block), calls=5),
            f"torch.randperm({given.count:,})": seconds(lambda: torch.randperm(given.count, dtype=torch.int32)),
        }
        rounds.append(taken)
    for what in rounds[0]:
        values = [taken[what] for taken in rounds]
        print(f"{what}: {1e3 * statistics.median(values):.3f} ms ({1e3 * min(values):.3f} to {1e3 * max(values):.3f})")
    blocks = given.count / BLOCK
    ratios = [blocks * taken[f"a block of {BLOCK}"] / taken[f"torch.randperm({given.count:,})"] for taken in rounds]
    median = statistics.median(ratios)
    print(f"an epoch's blocks against torch.randperm: {median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
