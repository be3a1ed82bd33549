"""Where original images come from. One function a data set; each finds or downloads its files under `root`."""

import gzip
import hashlib
import struct
import urllib.error
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ganduel.errors import UserError
from ganduel.files import make_folder

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
PACKED = "packed"  # the folder of packed copies inside a root: never searched for originals


@dataclass
class Source:
    """Original images, before packing. `stamp` changes whenever the files do."""

    count: int
    read: Callable[[int], Image.Image]
    name: Callable[[int], str]
    stamp: str
    labels: np.ndarray | None = None  # (count,) int64
    official_train: int | None = None  # the first so many are the official training images, the rest the test images
    expected: int | None = None  # how many the whole set has


def digits(root: str) -> Source:
    """The 1,797 handwritten digits of 8x8 pixels that ship inside scikit-learn (Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return _arrays(pixels, bunch.target, stamp="scikit-learn digits", expected=1797)


def mnist(root: str) -> Source:
    """MNIST (LeCun et al. 1998): 60,000 training and 10,000 test digits, in torchvision's layout, gzipped or unpacked.

    Downloads into `root`/MNIST/raw what is absent.
    """
    folder = Path(root)
    parts = {
        kind: [_idx(_mnist_file(folder, f"{split}-{kind}")) for split in ("train", "t10k")] for kind in MNIST_KINDS
    }
    pixels, labels = (np.concatenate(parts[kind]) for kind in MNIST_KINDS)
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise UserError(
            f"data.root: the MNIST files under {folder} do not belong together: {pixels.shape}, {labels.shape}"
        )
    stamp = hashlib.sha256(pixels.tobytes()).hexdigest()
    return _arrays(pixels, labels, stamp, official_train=len(parts[MNIST_KINDS[0]][0]), expected=70_000)


MNIST_KINDS = "images-idx3-ubyte", "labels-idx1-ubyte"


def _mnist_file(root: Path, name: str) -> Path:
    """The file, unpacked or gzipped, wherever under the root; downloaded where there is none."""
    places = [root / "MNIST" / "raw", root / "raw", root]
    for candidate in (place / (name + suffix) for place in places for suffix in ("", ".gz")):
        if candidate.is_file():
            return candidate
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import download_url

    make_folder(places[0], "data.root")
    md5 = dict(MNIST.resources)[name + ".gz"]
    for mirror in MNIST.mirrors:
        try:
            download_url(f"{mirror}{name}.gz", str(places[0]), f"{name}.part", md5)
            return (places[0] / f"{name}.part").replace(places[0] / f"{name}.gz")  # half a file is never found
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            reason = error
    raise UserError(
        f"data.root: MNIST is not in {root} and cannot be downloaded ({reason}); get {name}.gz and its three sisters "
        f"from {MNIST.mirrors[0]} and put them into {places[0]}, or name their folder with data.root=FOLDER"
    )


def _idx(path: Path) -> np.ndarray:
    """Read a file of unsigned bytes in the IDX format: two zeros, type 8, dimensions, big-endian sizes, data."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, dimensions = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{dimensions}I", raw, 4)
        if (zeros, kind) != (0, 8):
            raise ValueError("it does not begin like an IDX file")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise UserError(
            f"data.root: {path} is damaged ({error}); delete it and run again to download it anew"
        ) from error


def folder(root: str) -> Source:
    """Any tree of images below `root`, in the order of their paths; hidden files are no images."""
    top = Path(root)
    if not top.is_dir():
        raise UserError(f"data.root: {top} is no folder; name the folder of your images with data.root=FOLDER")
    paths = sorted(
        p
        for p in top.rglob("*")
        if p.suffix.lower() in IMAGE_SUFFIXES
        and not p.name.startswith(".")
        and PACKED not in p.relative_to(top).parts
        and p.is_file()
    )
    if not paths:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"data.root: no images in {top} or below it; looked for {kinds}")
    stamp = hashlib.sha256()
    for path in paths:
        status = path.stat()
        stamp.update(f"{path.relative_to(top)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return Source(
        count=len(paths),
        read=lambda i: Image.open(paths[i]),
        name=lambda i: str(paths[i].relative_to(top)),
        stamp=stamp.hexdigest(),
    )


def _arrays(
    pixels: np.ndarray,
    labels: np.ndarray,
    stamp: str,
    *,
    official_train: int | None = None,
    expected: int | None = None,
) -> Source:
    """A source of images that are in memory already: (N, H, W) uint8."""
    return Source(
        count=len(pixels),
        read=lambda i: Image.fromarray(pixels[i]),
        name=lambda i: f"image {i}",
        stamp=stamp,
        labels=labels.astype(np.int64),
        official_train=official_train,
        expected=expected,
    )
