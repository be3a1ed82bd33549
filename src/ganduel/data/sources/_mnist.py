"""MNIST: mnist, stacked_mnist. Fashion-MNIST has files of the same names and shares `idx_set`."""

import gzip
import io
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ganduel.data.archives import LARGEST, Folder, Tree
from ganduel.data.download import File, Remote
from ganduel.data.sources._digits import in_memory
from ganduel.data.sources._shared import Originals, Source, fetched, look, stamp, what_is_there
from ganduel.system.errors import UserError

REMOTE = Remote(
    "MNIST",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    [
        File(
            f"{name}-ubyte.gz",
            [
                f"{mirror}/{name}-ubyte.gz"
                for mirror in ("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist")
            ],
            md5,
        )
        for name, md5 in {
            "train-images-idx3": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1": "ec29112dd5afa0611ce80d1b7f02629c",
        }.items()
    ],
)
FILE = re.compile(  # without FashionMNIST, EMNIST, KMNIST and QMNIST: torchvision uses the same file names for them
    r"^(?!.*(?:fashion|[ekq])[-_]?mnist/)(?:.*/)?(train|t10k)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?$", re.I | re.S
)


def mnist(root: str, category: None) -> Source:
    """MNIST (LeCun et al. 1998): 60,000 training and 10,000 test digits of 28x28 pixels, in IDX files, gzipped or not.

    Missing files are downloaded into `root`/MNIST/raw, where torchvision also keeps them.
    """
    return idx_set(root, REMOTE, FILE, "MNIST", "0123456789")


def idx_set(root: str, remote: Remote, file: re.Pattern[str], folder: str, classes: Sequence[str]) -> Source:
    """A set of four IDX files, whose names match `file`: 60,000 training and 10,000 test images of 28x28 pixels.

    Missing files are downloaded into `root`/`folder`/raw. `classes` are the names of the labels.
    """
    tree = look(Path(root), ("*mnist*.zip", "*MNIST*.zip", "archive.zip"), file.search) or Folder(Path(root))
    files = _files(tree, file) if tree.path.exists() else {}
    if missing := [f for f in remote.files if _kind(f.name, file) not in files]:
        if not isinstance(tree, Folder):
            raise UserError(
                f"data.root: {tree.path} lacks {missing[0].name}; give the folder of the four files of {remote.title}"
                f"{what_is_there(tree)}"
            )
        fetched(replace(remote, files=missing), tree.path / folder / "raw", tree.path)
        files = _files(tree, file)

    def scan() -> Originals:
        images, labels = (
            {part: _idx(tree, files[part, kind]) for part in ("train", "t10k")} for kind in ("images", "labels")
        )
        for part, pixels in images.items():
            if pixels.ndim != 3 or labels[part].shape != pixels.shape[:1]:
                raise UserError(
                    f"data.root: the files of {remote.title} in {tree.path} do not belong together: "
                    f"{pixels.shape}, {labels[part].shape}"
                )
        parts = {"train": images["train"], "test": images["t10k"]}
        return in_memory(parts, np.concatenate(list(labels.values())), {"train": 60_000, "test": 10_000}, classes)

    return Source(stamp(tree.stamp(file.search)), scan)


def _files(tree: Tree, file: re.Pattern[str]) -> dict[tuple[str, str], str]:
    """The path of each file, by part and kind. Prefers unpacked to gzipped files, then the outermost copy."""
    found = sorted(tree.find(file.search), key=lambda name: (name.endswith(".gz"), name.count("/"), name))
    return {_kind(name, file): name for name in reversed(found)}


def _kind(name: str, file: re.Pattern[str]) -> tuple[str, str]:
    match = file.search(name)
    assert match, name
    return match[1], match[2]


def _idx(tree: Tree, name: str) -> np.ndarray:
    """Read a file of unsigned bytes in the IDX format: two zeros, type 8, dimensions, big-endian sizes, data.

    Raises UserError if the file is damaged.
    """
    try:
        raw = tree.read(name)
        if name.endswith(".gz"):
            raw = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(LARGEST)
        zeros, kind, dimensions = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{dimensions}I", raw, 4)
        if (zeros, kind) != (0, 8):
            raise ValueError("it does not begin like an IDX file")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise UserError(
            f"data.root: {tree.path / name} is damaged ({error}); delete it and run again to download it anew"
        ) from error
