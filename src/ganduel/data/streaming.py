"""Packed images in shards, in a folder or on S3: for sets that no single disk holds. Needs `ganduel[stream]` (litdata).

Training reads whole shards through a cache, so it shuffles the shards and the images of a few of them at a time.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganduel.data.recipe import decode
from ganduel.errors import UserError
from ganduel.files import make_folder

SHARD = 64 * 2**20  # bytes


def _litdata() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        import litdata
        import litdata.streaming.writer
    except ImportError as error:
        raise UserError(f"data.stream needs litdata ({error}): pip install 'ganduel[stream]'") from error
    return litdata


def shards(stream: str, path: Path) -> str:
    """Where the shards of a packed set, given by its JSON, lie: no two sets write over each other."""
    return f"{stream.rstrip('/')}/{path.stem}"


class ShardWriter:
    """Writes images one after another; full shards go to their address at once. What was begun cannot be gone on
    with."""

    size = 0  # bytes that an earlier writer left to go on from

    def __init__(self, address: str):
        library = _litdata()
        self.address, self.remote = address, "://" in address
        self.staging = tempfile.TemporaryDirectory()
        self.folder = Path(self.staging.name if self.remote else address)
        make_folder(self.folder, "data.stream")
        for old in [*self.folder.glob("*index.json"), *self.folder.glob("chunk-*.bin")]:  # of a writer that was killed
            old.unlink()
        self.writer = library.streaming.writer.BinaryWriter(str(self.folder), chunk_bytes=SHARD)
        self.count = self.shards = 0

    @contextmanager
    def opened(self, end: int) -> Iterator["ShardWriter"]:
        """To write to."""
        yield self

    def flush(self) -> None:
        """Nothing: a shard is written when it is full."""

    def write(self, stored: bytes) -> None:
        full = self.writer.add_item(self.count, stored)
        self.count += 1
        if full:
            self._upload(Path(full))

    def finish(self, sizes: np.ndarray) -> dict[str, Any]:
        """Write the index. Returns what the packed set's JSON must know: bytes in all, images in a shard."""
        for last in self.writer.done():
            self._upload(Path(last))
        (index,) = self.folder.glob("*.index.json")
        self._upload(index.replace(self.folder / "index.json"))
        self.staging.cleanup()
        return {"bytes": int(sizes.sum()), "shard": math.ceil(len(sizes) / self.shards)}

    def _upload(self, file: Path) -> None:
        self.shards += file.suffix == ".bin"
        if self.remote:
            import boto3

            bucket, _, prefix = self.address.removeprefix("s3://").partition("/")
            boto3.client("s3").upload_file(str(file), bucket, f"{prefix.strip('/')}/{file.name}".lstrip("/"))
            file.unlink()


class Shards:
    """A store of images in shards: pixels, or encoded where they were packed compressed."""

    decodes = True

    def __init__(self, address: str, shape: tuple[int, int, int], compressed: bool):
        self.address, self.shape, self.compressed = address, shape, compressed

    @cached_property
    def images(self) -> Any:
        """litdata's data set. Raises UserError where there is none."""
        try:
            return _litdata().StreamingDataset(self.address)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"data.stream={self.address}: no shards can be read there ({error}); pack them there with gan-data"
            ) from error

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, index: Tensor) -> Tensor:
        images = torch.empty((len(index), *self.shape), dtype=torch.uint8)
        for place in index.argsort().tolist():  # shard by shard
            images[place] = torch.from_numpy(self._pixels(bytes(self.images[int(index[place])])))
        return images

    def _pixels(self, stored: bytes) -> np.ndarray:
        if self.compressed:
            return decode(stored, "L" if self.shape[0] == 1 else "RGB")
        return np.frombuffer(bytearray(stored), np.uint8).reshape(self.shape)

    def stored(self) -> Iterator[bytes]:
        return (bytes(self.images[i]) for i in range(len(self)))
