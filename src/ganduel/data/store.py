"""Stores of packed images: pixels in a memory-mapped file, or compressed images in a file with an index at its end."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ganduel.data.resize import decode_all
from ganduel.data.streaming import AGAIN, Place, Shards
from ganduel.system.files import parsing

PIXELS, PACKED_SET = "a file of packed images", "the description of a packed set"
CHUNK = 512  # images read at once when a whole store is read


class Indexed(Protocol):
    """Images, accessed by index."""

    shape: tuple[int, int, int]  # (C, H, W)
    decodes: bool  # whether `gather` must decode; it is then slow and should run ahead in a thread

    def __len__(self) -> int: ...

    def gather(self, index: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8, with the indices (N,), on the device of the store."""


class Store(Indexed, Protocol):
    """Packed images, accessed by index."""

    def stored(self) -> Iterator[bytes]:
        """The stored bytes of each image, in order."""


class Raw:
    """Pixels, uint8 (N, C, H, W): memory-mapped from a file, or in the memory of a device.

    Points in the plane are float32 (N, 2, 1, 1).
    """

    decodes = False

    def __init__(self, pixels: Tensor):
        self.pixels = pixels
        channels, height, width = pixels.shape[1:]
        self.shape = channels, height, width

    @classmethod
    def open(cls, path: Path, shape: tuple[int, ...], dtype: str = "uint8") -> "Raw":
        """Memory-map a .npy file of pixels of this `shape` (N, C, H, W) and type, read-only. Raises Damaged otherwise.

        Copy-on-write would make systems reserve memory for the whole file.
        """
        with parsing(path, PIXELS, AGAIN):  # PyTorch warns that it has no read-only tensors; this drops the warning
            pixels = np.load(path, mmap_mode="r")
            if (pixels.shape, pixels.dtype) != (shape, np.dtype(dtype)):
                raise ValueError(f"it holds {pixels.dtype} {pixels.shape}")
            return cls(torch.from_numpy(pixels))

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, index: Tensor) -> Tensor:
        if self.pixels.is_cuda:  # pinned memory, so that the copy does not block
            index = index.pin_memory().to(self.pixels.device, non_blocking=True)
        return self.pixels.index_select(0, index)

    def stored(self) -> Iterator[bytes]:
        for image in self.pixels:
            yield image.numpy().tobytes()


class Compressed:
    """Encoded images one after another, then their offsets, int64 (N + 1,). The last one is the end of the images."""

    decodes = True

    def __init__(self, path: Path, count: int, shape: tuple[int, int, int]):
        self.path, self.count, self.shape = path, count, shape

    @cached_property
    def file(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, "r")

    @cached_property
    def index(self) -> np.ndarray:
        return self.file[-8 * (self.count + 1) :].view(np.int64)

    def __len__(self) -> int:
        return self.count

    def bytes_of(self, i: int) -> bytes:
        return self.file[self.index[i] : self.index[i + 1]].tobytes()

    def gather(self, index: Tensor) -> Tensor:
        with parsing(self.path, PIXELS, AGAIN):
            return torch.from_numpy(decode_all(map(self.bytes_of, index.tolist()), self.shape))

    def stored(self) -> Iterator[bytes]:
        return map(self.bytes_of, range(self.count))


class FileWriter:
    """Writes a file for `Raw` or `Compressed`. Until the file is complete, it has the suffix .part."""

    key = "data.packed"  # the configuration key that chooses the folder
    again = "packing goes on where it stopped"

    def __init__(self, path: Path, count: int, shape: tuple[int, int, int], compressed: bool):
        """`path` is the packed set's JSON; `count` is the largest possible number of images."""
        self.part, self.file = path.with_suffix(".part"), path.with_suffix(suffix(compressed))
        self.shape, self.compressed, self.where = shape, compressed, str(path.parent)
        self.start = 0 if compressed else _header(io.BytesIO(), (count, *shape))

    @property
    def size(self) -> int:
        """Bytes of images written so far."""
        return self.part.stat().st_size - self.start if self.part.exists() else 0

    def free(self) -> float:
        """Free bytes on the disk."""
        return shutil.disk_usage(self.where).free

    @contextmanager
    def opened(self, end: int) -> Iterator[IO[bytes]]:
        """Open the file to write on after the first `end` bytes of images; the rest is cut off."""
        with open(self.part, "r+b" if end else "wb") as file:
            file.truncate(self.start + end)
            file.seek(self.start + end)
            yield file

    def finish(self, sizes: np.ndarray) -> dict[str, Any]:
        """Complete the file; `sizes` (N,) are the bytes of each image. Returns "bytes" and "shards" for the JSON."""
        with open(self.part, "r+b") as file:
            if self.compressed:
                file.seek(0, os.SEEK_END)
                file.write(np.concatenate([[0], np.cumsum(sizes)]).astype("<i8").tobytes())
            else:
                _header(file, (len(sizes), *self.shape))
            os.fsync(file.fileno())
        self.part.replace(self.file)
        return {"bytes": self.file.stat().st_size, "shards": None}


def _header(file: IO[bytes], shape: tuple[int, ...]) -> int:
    """Write NumPy's header at the start of the file and return its length, which does not depend on the row count."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def open_store(path: Path, about: dict[str, Any], place: Place | None) -> Store:
    """Open the images of a packed set. `path` is its JSON, `about` the JSON's content.

    `place` is where its shards lie, or None if it has none. Raises UserError if shards are missing.
    """
    recipe = about["recipe"]
    shape = recipe["channels"], recipe["resolution"], recipe["resolution"]
    if place is not None and about["shards"] is not None:
        return Shards(place, about["shards"], shape, about["compressed"])
    file = path.with_suffix(suffix(about["compressed"]))
    count = about["images"]
    return (
        Compressed(file, count, shape)
        if about["compressed"]
        else Raw.open(file, (count, *shape), about.get("dtype", "uint8"))
    )


def described(path: Path) -> dict[str, Any]:
    """The content of a packed set's JSON. Raises Damaged if it is damaged or its checksum is wrong."""
    with parsing(path, PACKED_SET, AGAIN):
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        signed = about.pop("checksum", None)  # older sets have none
        if signed is not None and signed != sign(about):
            raise ValueError("its checksum does not match")
        return about


def sign(about: dict[str, Any]) -> str:
    """The checksum of the description of a packed set."""
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def labels_path(path: Path) -> Path:
    """The label file beside a packed set's JSON."""
    return path.with_suffix(".labels.npy")


def suffix(compressed: bool) -> str:
    """The suffix of the file of packed images."""
    return ".images" if compressed else ".npy"


def resident(store: Store, device: torch.device) -> Raw:
    """Copy all images of a store into the memory of a device."""
    some = store.gather(torch.arange(1))
    pixels = torch.empty((len(store), *store.shape), dtype=some.dtype, device=device)
    for part in torch.arange(len(store)).split(CHUNK):
        pixels[part[0] : part[-1] + 1] = store.gather(part)
    return Raw(pixels)
