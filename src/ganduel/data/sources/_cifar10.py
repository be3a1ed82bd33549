"""CIFAR-10: cifar10."""

import io
import re
from posixpath import basename
from typing import Any

import numpy as np

from ganduel.data.archives import Tree
from ganduel.data.download import File, Remote
from ganduel.data.formats import is_image
from ganduel.data.sources._digits import in_memory
from ganduel.data.sources._folder import Kind, folder
from ganduel.data.sources._shared import Originals, Source, open_root, stamp
from ganduel.system.errors import UserError
from ganduel.system.files import parsing
from ganduel.system.pickles import Bytes, Restricted, arrays

REMOTE = Remote(
    "CIFAR-10",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    [
        File(
            "cifar-10-python.tar.gz",
            ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"],
            "c58f30108f718f92721af3b95e74349a",
        )
    ],
)
BATCH = re.compile(r"(?:^|/)(data_batch_[1-5]|test_batch)$")
BATCHES = *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"
CLASSES = "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
SIDE = 32  # pixels
EXPECTED = {"train": 50_000, "test": 10_000}
JPEG = (".jpg", ".jpeg")


def cifar10(root: str, category: None, labels: Kind) -> Source:
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test photographs of 32x32 pixels, in ten classes.

    The set is the official archive of Python pickles, that archive unpacked, or a tree of images with a folder for
    each class, as `folder` reads it. Nothing in a pickle is run. A missing set is downloaded. Raises UserError.
    """

    def keep(name: str) -> bool:
        return bool(BATCH.search(name)) or is_image(name)

    tree = open_root(root, ("cifar-10-python.tar.gz", "*cifar*"), keep, REMOTE)

    def scan() -> Originals:
        batches = {basename(name): name for name in reversed(tree.find(BATCH.search))}
        if not batches:
            return _copies(str(tree.path), labels)
        if labels in ("folders", "json"):
            raise UserError(f"data.labels={labels}: {tree.path} has the official labels; set data.labels=auto or none")
        if missing := [name for name in BATCHES if name not in batches]:
            raise UserError(f"data.root: {tree.path} lacks {', '.join(missing)} of CIFAR-10; download it again")
        read = {name: _batch(tree, batches[name]) for name in BATCHES}
        parts = {
            "train": np.concatenate([read[name][0] for name in BATCHES[:-1]]),
            "test": read[BATCHES[-1]][0],
        }
        return in_memory(parts, np.concatenate([read[name][1] for name in BATCHES]), EXPECTED, CLASSES)

    return Source(stamp("CIFAR-10", tree.stamp(keep)), scan)


def _copies(root: str, labels: Kind) -> Originals:
    """CIFAR-10 as images in folders. JPEGs are not the official pixels, so a note says so."""
    originals = folder(root, None, labels).scan()
    originals.expected = {part: count for part, count in EXPECTED.items() if part in originals.splits}
    if jpegs := sum(name.lower().endswith(JPEG) for name in originals.names):
        originals.note = (
            f"{jpegs:,} images are JPEG copies, not the official pixels of CIFAR-10, so values of FID do not "
            "compare with published ones; cifar-10-python.tar.gz has the pixels"
        )
    return originals


def _batch(tree: Tree, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The images, uint8 (N, 32, 32, 3), and the labels (N,) of an official file. Raises UserError if it is damaged."""
    path = tree.path / name
    with parsing(path, "a batch of CIFAR-10", "download it again"):
        content: Any = Restricted(io.BytesIO(tree.read(name)), "batch of CIFAR-10", arrays(), "bytes").load()
        content = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        pixels, labels = content["data"], np.array(content["labels"])
        if not isinstance(pixels, Bytes) or labels.dtype.kind != "i" or labels.shape != pixels.array.shape[:1]:
            raise ValueError("it has no bytes of pixels with a label for each image")
        if labels.min() < 0 or labels.max() >= len(CLASSES):
            raise ValueError("a label is none of the ten classes")
        return pixels.array.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), labels
