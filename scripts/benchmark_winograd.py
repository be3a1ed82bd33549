"""Measure how much Winograd's transforms speed up 3x3 convolutions on a CPU in float32: forward and both gradients.

    python scripts/benchmark_winograd.py
    python scripts/benchmark_winograd.py 4x512x16 1x256x64

Sizes are IMAGESxMAPSxPIXELS. The default sizes include layers of cyclegan and stylegan2_ada at their usual batch sizes.
The two methods take turns within every round. Prints the median times, the ratio with its range over the rounds, and
the relative errors of the output against double precision.
"""

import argparse
import statistics

import torch
from benchmark_step import seconds
from torch import Tensor

from ganduel.models import winograd
from ganduel.models.convolution import convolve

SIZES = "1x256x32", "2x256x32", "4x256x64", "4x512x32", "4x512x16"
CPU = torch.device("cpu")


def compare(images: int, maps: int, pixels: int, rounds: int) -> str:
    """The line of the table for one size: `images` of `maps` channels and `pixels` a side."""
    torch.manual_seed(0)
    x = torch.randn(images, maps, pixels, pixels).to(memory_format=torch.channels_last).requires_grad_()
    weight = (torch.randn(maps, maps, 3, 3) / (9 * maps) ** 0.5).to(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn_like(x)
    if not winograd.suits(x.detach(), weight, 1, 1):
        return f"| {images}x{maps}x{pixels} | does not suit | | | |"

    def ours() -> tuple[Tensor, ...]:
        y = convolve(x, weight, padding=1)
        return y, *torch.autograd.grad(y, (x, weight), upstream)

    def direct() -> tuple[Tensor, ...]:
        y = torch.nn.functional.conv2d(x, weight, padding=1)
        return y, *torch.autograd.grad(y, (x, weight), upstream)

    with torch.no_grad():
        exact = torch.nn.functional.conv2d(x.double(), weight.double(), padding=1)
        errors = [((do()[0] - exact).norm() / exact.norm()).item() for do in map(torch.enable_grad(), (ours, direct))]
    times = [(seconds(ours, CPU), seconds(direct, CPU)) for _ in range(rounds)]
    medians = [1000 * statistics.median(side) for side in zip(*times, strict=True)]
    ratios = sorted(b / a for a, b in times)
    ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    told = f"{medians[0]:.1f} | {medians[1]:.1f} | {ratio} | {errors[0]:.1e}, {errors[1]:.1e}"
    return f"| {images}x{maps}x{pixels} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="of both ways (default: %(default)s)")
    parser.add_argument("sizes", nargs="*", default=SIZES, help=f"(default: {' '.join(SIZES)})")
    args = parser.parse_args()
    print("| size | transformed, ms | direct, ms | ratio | errors of both |")
    print("| --- | --- | --- | --- | --- |")
    for size in args.sizes:
        print(compare(*map(int, size.split("x")), args.rounds), flush=True)


if __name__ == "__main__":
    main()
