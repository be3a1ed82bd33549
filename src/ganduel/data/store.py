"""Where packed images lie: as pixels in one mapped file, or compressed in one file with an index at its end."""

import io
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ganduel.data.streaming import Place, Shards
from ganduel.data.transform import decode_all
from ganduel.system.errors import UserError

CHUNK = 512  # images read at once where all are wanted


class Store(Protocol):
    """Packed images by number."""

    shape: tuple[int, int, int]  # (C, H, W)
    decodes: bool  # whether gathering takes time that should not be waited for

    def __len__(self) -> int: ...

    def gather(self, index: Tensor) -> Tensor:
        """uint8 images (N, C, H, W) of the numbers (N,), on the device where the store is."""

    def stored(self) -> Iterator[bytes]:
        """What the file holds of each image, in order."""


class Raw:
    """Pixels: uint8 (N, C, H, W), mapped from a file or in the memory of a device."""

    decodes = False

    def __init__(self, pixels: Tensor):
        self.pixels = pixels
        channels, height, width = pixels.shape[1:]
        self.shape = channels, height, width

    @classmethod
    def open(cls, path: Path) -> "Raw":
        """Map a .npy file. Not copy-on-write, for which systems reserve as much memory as the file is long."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch has no tensors that may not be written to
            return cls(torch.from_numpy(np.load(path, mmap_mode="r")))

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, index: Tensor) -> Tensor:
        if self.pixels.is_cuda:  # pinned, so that nobody waits
            index = index.pin_memory().to(self.pixels.device, non_blocking=True)
        return self.pixels.index_select(0, index)

    def stored(self) -> Iterator[bytes]:
        for image in self.pixels:
            yield image.numpy().tobytes()


class Compressed:
    """Encoded images one after another, then where each begins and the last ends: int64 (N + 1,)."""

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
        try:
            return torch.from_numpy(decode_all(map(self.bytes_of, index.tolist()), self.shape))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} is damaged ({error}); gan-data with the same data= packs it anew") from error

    def stored(self) -> Iterator[bytes]:
        return map(self.bytes_of, range(self.count))


class FileWriter:
    """Writes either kind of file: a .part, until it is whole."""

    key = "data.packed"  # that chooses where
    again = "packing goes on where it stopped"

    def __init__(self, path: Path, count: int, shape: tuple[int, int, int], compressed: bool):
        """`path` is the packed set's JSON; `count` images may come, fewer are fine."""
        self.part, self.file = path.with_suffix(".part"), path.with_suffix(suffix(compressed))
        self.shape, self.compressed, self.where = shape, compressed, str(path.parent)
        self.start = 0 if compressed else _header(io.BytesIO(), (count, *shape))

    @property
    def size(self) -> int:
        """Bytes of images that are written already."""
        return self.part.stat().st_size - self.start if self.part.exists() else 0

    def free(self) -> float:
        """Bytes that can be written."""
        return shutil.disk_usage(self.where).free

    @contextmanager
    def opened(self, end: int) -> Iterator[IO[bytes]]:
        """To write on after so many bytes of images."""
        with open(self.part, "r+b" if end else "wb") as file:
            file.truncate(self.start + end)
            file.seek(self.start + end)
            yield file

    def finish(self, sizes: np.ndarray) -> dict[str, Any]:
        """Make the file whole: `sizes` are the bytes of each image. Returns what its JSON must know."""
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
    """Write NumPy's header at the start of the file; its length does not depend on the number of rows."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def open_store(path: Path, about: dict[str, Any], place: Place | None) -> Store:
    """The images that a packed set's JSON, and what it says, describe; `place` is where its shards are, if it has
    any."""
    recipe = about["recipe"]
    shape = recipe["channels"], recipe["resolution"], recipe["resolution"]
    if place is not None and about["shards"] is not None:
        return Shards(place, about["shards"], shape, about["compressed"])
    file = path.with_suffix(suffix(about["compressed"]))
    return Compressed(file, about["images"], shape) if about["compressed"] else Raw.open(file)


def labels_path(path: Path) -> Path:
    """The file of labels beside a packed set's JSON."""
    return path.with_suffix(".labels.npy")


def suffix(compressed: bool) -> str:
    """Of the file of packed images."""
    return ".images" if compressed else ".npy"


def resident(store: Store, device: torch.device) -> Raw:
    """All images of a store in the memory of a device."""
    pixels = torch.empty((len(store), *store.shape), dtype=torch.uint8, device=device)
    for part in torch.arange(len(store)).split(CHUNK):
        pixels[part[0] : part[-1] + 1] = store.gather(part)
    return Raw(pixels)
