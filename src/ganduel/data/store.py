"""Where packed images lie: as pixels in one mapped file, or compressed in one file with an index at its end."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ganduel.data.recipe import decode

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
        """Map a .npy file. Copy-on-write: the file stays as it is, and PyTorch does not mind a map that may be written
        to."""
        return cls(torch.from_numpy(np.load(path, mmap_mode="c")))

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, index: Tensor) -> Tensor:
        return self.pixels.index_select(0, index.to(self.pixels.device))

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

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")

    def __len__(self) -> int:
        return self.count

    def bytes_of(self, i: int) -> bytes:
        return self.file[self.index[i] : self.index[i + 1]].tobytes()

    def gather(self, index: Tensor) -> Tensor:
        mode = "L" if self.shape[0] == 1 else "RGB"
        images = list(self.pool.map(lambda i: decode(self.bytes_of(i), mode), index.tolist()))
        return torch.from_numpy(np.stack(images)) if images else torch.empty((0, *self.shape), dtype=torch.uint8)

    def stored(self) -> Iterator[bytes]:
        return map(self.bytes_of, range(self.count))


def open_store(path: Path, about: dict[str, Any]) -> Store:
    """The images that a packed set's JSON, and what it says, describe."""
    file = path.with_name(about["file"])
    if file.suffix == ".npy":
        return Raw.open(file)
    recipe = about["recipe"]
    return Compressed(file, about["images"], (recipe["channels"], recipe["resolution"], recipe["resolution"]))


def resident(store: Store, device: torch.device) -> Raw:
    """All images of a store in the memory of a device."""
    pixels = torch.empty((len(store), *store.shape), dtype=torch.uint8, device=device)
    for part in torch.arange(len(store)).split(CHUNK):
        pixels[part[0] : part[-1] + 1] = store.gather(part)
    return Raw(pixels)
