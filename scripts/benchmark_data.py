"""Measure the speed of packed batches and of packing on your own images, or train on a simulated set of millions.

    python scripts/benchmark_data.py photos            # a folder with one subfolder per class, as for ImageFolder
    python scripts/benchmark_data.py photos --files 10000 --rounds 5
    python scripts/benchmark_data.py --sparse 3000000  # simulates a set of 3,000,000 64x64 images and trains on it

Prints ratios: the median and the range over the rounds. Absolute times differ between machines and between hours.
"""

import argparse
import itertools
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from ganduel import build
from ganduel.config.compose import compose
from ganduel.config.keys import quote
from ganduel.config.schema import Data
from ganduel.data.image_set import ImageSet
from ganduel.data.loading import open_images
from ganduel.data.packing import FORMAT
from ganduel.data.prepare import origin, prepare
from ganduel.data.resize import Recipe
from ganduel.data.store import FileWriter

BATCH = 64
SHAPE = (3, 64, 64)  # of the simulated set
CPU = torch.device("cpu")


def settings(root: Path, packed: Path, resolution: int) -> Data:
    """The data configuration of a folder."""
    typed = [f"data.root={root}", f"data.packed={packed}", f"data.resolution={resolution}", "data.max_rejected=1"]
    return compose("data", ["data=folder", *map(quote, typed)]).data


def rate(draw: Iterator[int], seconds: float) -> float:
    """Images per second, measured for `seconds`."""
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        images += next(draw)
    return images / (time.perf_counter() - start)


def from_files(root: Path, resolution: int, workers: int) -> Iterator[int]:
    """The usual batches of notebooks: images are decoded, resized, cropped and normalised in every epoch."""
    steps = [transforms.Resize(resolution), transforms.CenterCrop(resolution), transforms.ToTensor()]
    normalise = transforms.Normalize([0.5] * 3, [0.5] * 3)
    images = ImageFolder(str(root), transforms.Compose([*steps, normalise]))
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True)
    while True:
        for batch, _ in loader:
            yield len(batch)


def from_packed(images: ImageSet, floats: bool) -> Iterator[int]:
    """Batches of a packed set: as floats, ready for training, or as bytes."""
    for position in itertools.count(step=BATCH):
        order = images.order(torch.arange(position, position + BATCH))
        yield len(images.batch(position, BATCH)["real"] if floats else images.gather(order))


def compare(first: Callable[[], float], second: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Measure both in turn, `rounds` times."""
    pairs = [(first(), second()) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def tell(name: str, slow: list[float], fast: list[float], unit: str) -> None:
    ratios = [b / a for a, b in zip(slow, fast, strict=True)]
    medians = f"{statistics.median(slow):,.0f} and {statistics.median(fast):,.0f} {unit}"
    print(f"{name}: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}); {medians}")


def batches(root: Path, resolution: int, workers: int, rounds: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as packed:
        data = settings(root, Path(packed), resolution)
        images = open_images(prepare(data, None, build.source(data, [])), data, seed=0, device=CPU)
        assert isinstance(images, ImageSet)
        files = from_files(root, resolution, workers)
        next(files)  # starts the workers
        for name, floats in ("bytes", False), ("floats", True):
            draw = from_packed(images, floats)
            slow, fast = compare(lambda: rate(files, seconds), lambda d=draw: rate(d, seconds / 4), rounds)
            tell(f"packed batches as {name} against ImageFolder with {workers} workers", slow, fast, "images/s")


def packing(root: Path, resolution: int, count: int, rounds: int) -> None:
    """Compare packing in one process and in two, on `count` files: those of the folder, repeated."""
    with tempfile.TemporaryDirectory() as folder:
        originals = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")]
        (many := Path(folder) / "many").mkdir()
        for i in range(count):
            shutil.copyfile(original := originals[i % len(originals)], many / f"{i:06d}{original.suffix}")

        def run(workers: int) -> float:
            packed = Path(tempfile.mkdtemp(dir=folder))
            start = time.perf_counter()
            data = settings(many, packed, resolution)
            prepare(data, workers, build.source(data, []))
            return count / (time.perf_counter() - start)

        one, two = compare(lambda: run(1), lambda: run(2), rounds)
        tell(f"packing {count:,} files with two processes against one", one, two, "images/s")


def sparse(count: int) -> None:
    """Run gan-train on a packed set of `count` images in a sparse file, whose pixels were never written."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "originals"  # does not exist, like originals that were deleted after packing
        typed = ["data=folder", f"data.root={root}", f"data.packed={folder}", "data.validation=0.01"]
        data = compose("train", typed).data
        path, recipe = Path(folder) / "folder-sparse.json", Recipe(64, 3, None, data.resize)
        writer = FileWriter(path, count, SHAPE, compressed=False)
        with writer.opened(0) as file:
            file.truncate(writer.start + count * math.prod(SHAPE))
        about = {
            "name": "folder",
            "content": "",
            "images": count,
            "splits": {"train": count},
            "compressed": False,
            "root": str(root),
        }
        about["recipe"] = {"format": FORMAT, **origin(data), **vars(recipe)}
        path.write_text(json.dumps({**about, **writer.finish(np.full(count, math.prod(SHAPE)))}))
        start = time.perf_counter()
        images = open_images(path, data, seed=0, device=CPU)
        print(f"{images.count:,} of {count:,} images to train on, opened in {time.perf_counter() - start:.2f} s")
        command = ["-m", "ganduel.train", *typed, "model.channels=8", "batch_size=64", "duration=200 steps"]
        quiet = ["metric.which=[]", f"runs_dir={folder}/runs"]
        with subprocess.Popen([sys.executable, *command, *quiet], stderr=subprocess.DEVNULL) as process:
            peak = 0
            while process.poll() is None:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max(
                    peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0
                )
                time.sleep(0.05)
        print(f"gan-train, 200 steps: exit code {process.returncode}, at most {peak / 1e3:.0f} MB of private memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="images, one subfolder a class")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="of ImageFolder's loader")
    parser.add_argument("--files", type=int, default=10_000, help="to pack, the folder's repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement of batches")
    parser.add_argument("--sparse", type=int, metavar="N", help="only: open and train on a simulated set of N images")
    given = parser.parse_args()
    if given.sparse:
        sparse(given.sparse)
    elif given.folder is None:
        parser.error("name a folder, or --sparse N")
    else:
        batches(given.folder, given.resolution, given.workers, given.rounds, given.seconds)
        packing(given.folder, given.resolution, given.files, given.rounds)


if __name__ == "__main__":
    main()
