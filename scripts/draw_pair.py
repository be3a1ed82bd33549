"""Draw an unpaired data set to try CycleGAN on: brown ellipses (A) and striped ellipses (B).

    python scripts/draw_pair.py data/ellipses
    gan-train model=cyclegan data=folder_pair data.root=data/ellipses data.resolution=64

In both domains, the ellipses lie anywhere, at any angle, on meadows of any green. Only the stripes differ.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"trainA": 400, "trainB": 400, "testA": 40, "testB": 40}


def ellipse(rng: np.random.Generator, size: int, striped: bool) -> Image.Image:
    """Draw one image of `size` pixels a side. It is drawn four times as large and then reduced."""
    y, x = np.mgrid[: 4 * size, : 4 * size] / (4 * size) - 0.5
    angle, across, down = rng.uniform(0, np.pi), *rng.uniform(-0.15, 0.15, 2)
    along = (x - across) * np.cos(angle) + (y - down) * np.sin(angle)
    athwart = (y - down) * np.cos(angle) - (x - across) * np.sin(angle)
    inside = (along / rng.uniform(0.28, 0.38)) ** 2 + (athwart / rng.uniform(0.15, 0.22)) ** 2 < 1
    light = 1 + 0.25 * (x + y)
    meadow = np.array([rng.uniform(60, 140), rng.uniform(130, 190), rng.uniform(40, 90)])
    coat = np.array([rng.uniform(120, 170), rng.uniform(70, 100), rng.uniform(30, 60)]) * np.ones((*x.shape, 1))
    if striped:
        coat = np.where((along * rng.uniform(9, 12) % 1 < 0.5)[..., None], 25, 235) * np.ones(3)
    pixels = (np.where(inside[..., None], coat, meadow) * light[..., None]).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where trainA, trainB, testA and testB go")
    parser.add_argument("--size", type=int, default=64, help="pixels a side (default: %(default)s)")
    parser.add_argument("--share", type=float, default=1, help=f"of {COUNTS} (default: all)")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        (args.folder / part).mkdir(parents=True, exist_ok=True)
        for i in range(max(2, round(count * args.share))):
            ellipse(rng, args.size, part.endswith("B")).save(args.folder / part / f"{i:03}.png")


if __name__ == "__main__":
    main()
