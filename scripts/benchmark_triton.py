"""Measure how much Triton's kernels speed up the low-pass filter and the activation on CUDA.

    python scripts/benchmark_triton.py
    python scripts/benchmark_triton.py --sizes 32x256x64 32x512x32 --rounds 15

Sizes are IMAGESxMAPSxPIXELS, by default those of stylegan2_ada at 64x64. Kernels and PyTorch take turns within
every round. Prints the median times, and their ratio with its range over the rounds.
"""

import argparse
import statistics
import sys
from collections.abc import Callable

import torch
from benchmark_step import seconds
from torch import Tensor

from ganduel.models import triton_kernels
from ganduel.models.convolution import Resample, activate

SIZES = "32x256x64", "32x512x32", "32x512x16"
CALLS = 20  # between two looks at the clock
FILTERS = {
    "before a stride": {"padding": (2, 2)},
    "halving": {"padding": (1, 1), "down": 2},
    "doubling": {"padding": (2, 1), "up": 2},
}


def compare(what: str, do: Callable[[], Tensor], rounds: int) -> str:
    """The line of the table for one function: by PyTorch, then by the kernels."""

    def timed(enabled: bool) -> float:
        triton_kernels.enabled = enabled
        return 1000 * seconds(lambda: [do() for _ in range(CALLS)], torch.device("cuda")) / CALLS

    times = [(timed(False), timed(True)) for _ in range(rounds + 1)][1:]  # the first round compiles
    plain, ours = (statistics.median(side) for side in zip(*times, strict=True))
    ratios = sorted(a / b for a, b in times)
    return f"| {what} | {plain:.3f} | {ours:.3f} | {plain / ours:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="of both ways (default: %(default)s)")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help=f"(default: {' '.join(SIZES)})")
    args = parser.parse_args()
    if not (torch.cuda.is_available() and triton_kernels.installed):
        sys.exit("error: this needs CUDA and Triton")
    print("| what | PyTorch, ms | Triton, ms | times as fast |")
    print("| --- | --- | --- | --- |")
    for dtype in (torch.bfloat16, torch.float32):
        for size in args.sizes:
            images, maps, pixels = map(int, size.split("x"))
            x = torch.randn(images, maps, pixels, pixels, dtype=dtype, device="cuda").to(
                memory_format=torch.channels_last
            )
            bias = torch.zeros(maps, device="cuda")
            kind = f"{size} {str(dtype).removeprefix('torch.')}"
            for name, settings in FILTERS.items():
                filtered = Resample(**settings).cuda()
                print(compare(f"filter, {name}, {kind}", lambda f=filtered, x=x: f(x), args.rounds), flush=True)
            print(compare(f"activation, {kind}", lambda x=x, b=bias: activate(x, 256.0, b), args.rounds), flush=True)


if __name__ == "__main__":
    main()
