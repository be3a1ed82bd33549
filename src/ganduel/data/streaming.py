"""Packed images in shards, in a folder or on S3, for sets that are too large for one disk.

The shards use litdata's streaming format. `index.json` lists the shards. A shard begins with a header of uint32: the
number of items, the offset of each item, and the end of the last item. An item is its size, uint32, followed by its
bytes. Training shuffles the shards and mixes the images of a few at a time, so it reads every shard as a whole, once
an epoch. We do not use litdata's own reader, because it would request every image separately.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ganduel.config.schema import Data
from ganduel.data.resize import decode_all
from ganduel.system.errors import UserError
from ganduel.system.files import Damaged, locked, make_folder, parsing

SHARD = 64 * 2**20  # bytes
OPEN = 16  # shards that a process keeps open: more than training mixes at a time
INDEX = "index.json"
AGAIN = "run gan-data with the same data= to pack it again"
ITEM = '[1, {"type": null, "context": null, "children_spec": []}]'  # litdata's data_spec for items of one value


class Place(Protocol):
    """The storage of one packed set's shards."""

    address: str

    def sizes(self) -> dict[str, int]:
        """The size of every file in bytes, by name."""

    def text(self, name: str) -> str:
        """The text of a file."""

    def fetch(self, name: str, size: int) -> np.ndarray:
        """The bytes of a shard, uint8 (size,), memory-mapped from a file."""

    def put(self, name: str, content: bytes) -> None:
        """Write a file, completely or not at all."""

    def clear(self) -> None:
        """Delete everything that an earlier writer may have left."""

    def free(self) -> float:
        """Free bytes; infinite for S3."""


def place(path: Path, data: Data) -> Place | None:
    """The place for the shards of the packed set whose JSON is at `path`; None if the configuration wants no shards.

    Raises UserError if `data.stream` is neither a folder nor an S3 address.
    """
    stream = data.stream
    if stream is None:
        return None
    if stream.startswith("s3://"):
        return Bucket(f"{stream.rstrip('/')}/{path.stem}", path.with_suffix(".cache"), data.cache_gb * 1e9)
    if "://" in stream:
        raise UserError(f"data.stream={stream} is not allowed; it takes a folder or s3://BUCKET/PREFIX")
    return Directory(Path(stream) / path.stem)


class Directory:
    """Shards in a folder."""

    def __init__(self, folder: Path):
        self.folder, self.address = folder, str(folder)

    def sizes(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self.folder.glob("*")}

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def fetch(self, name: str, size: int) -> np.ndarray:
        return np.memmap(self.folder / name, np.uint8, "r", shape=(size,))

    def put(self, name: str, content: bytes) -> None:
        part = self.folder / f"{name}.part"
        part.write_bytes(content)
        part.replace(self.folder / name)

    def clear(self) -> None:
        make_folder(self.folder, "data.stream")
        for name in [INDEX, "*.part", "chunk-*.bin"]:  # the index first: without it, the set counts as absent
            for old in self.folder.glob(name):
                old.unlink()

    def free(self) -> float:
        make_folder(self.folder, "data.stream")
        return shutil.disk_usage(self.folder).free


class Bucket:
    """Shards on S3 or a compatible service. boto3 finds address, region and credentials in the environment.

    Reads go through a cache folder that all processes of a machine share. It keeps the most recently used shards. The
    methods raise UserError if boto3 is missing or the service cannot be reached.
    """

    def __init__(self, address: str, cache: Path, limit: float):
        """`limit` is the largest size of the cache in bytes."""
        self.address, self.cache, self.limit = address, cache, limit
        self.bucket, _, self.prefix = address.removeprefix("s3://").partition("/")

    @cached_property
    def client(self) -> Any:
        try:
            import boto3
        except ImportError as error:
            raise UserError(
                f"data.stream={self.address} needs the package boto3: pip install 'ganduel[stream]'"
            ) from error
        return boto3.client("s3")

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn boto3's exceptions into a UserError of one line."""
        client = self.client
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield client
        except (BotoCoreError, ClientError, Boto3Error) as error:
            raise UserError(
                f"data.stream: {self.address} cannot be reached ({error}); check the address, the credentials and "
                "AWS_ENDPOINT_URL"
            ) from error

    def sizes(self) -> dict[str, int]:
        with self.explaining():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
            found = [item for page in pages for item in page.get("Contents", [])]
        return {item["Key"].removeprefix(f"{self.prefix}/"): item["Size"] for item in found}

    def text(self, name: str) -> str:
        with self.explaining():
            return self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["Body"].read().decode()

    def fetch(self, name: str, size: int) -> np.ndarray:
        make_folder(self.cache, "data.packed")
        file = self.cache / name
        with locked(self.cache / ".lock"):
            if not file.exists() or file.stat().st_size != size:
                self._make_room(size)
                with self.explaining():
                    self.client.download_file(self.bucket, f"{self.prefix}/{name}", str(file))
            file.touch()
            return np.memmap(file, np.uint8, "r", shape=(size,))

    def _make_room(self, size: int) -> None:
        """Delete the least recently used shards. Processes that have them open can still read them."""
        files = sorted(self.cache.glob("chunk-*"), key=lambda file: file.stat().st_mtime)
        held = sum(file.stat().st_size for file in files)
        for file in files:
            if held + size > self.limit:
                held -= file.stat().st_size
                file.unlink()

    def put(self, name: str, content: bytes) -> None:
        with self.explaining():
            self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=content)

    def clear(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)
        for name in sorted(self.sizes(), key=lambda name: name != INDEX):
            if name == INDEX or name.startswith("chunk-"):
                with self.explaining():
                    self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")

    def free(self) -> float:
        return float("inf")


class ShardWriter:
    """Writes images one after another. A full shard goes to its place at once. An interrupted writer cannot resume."""

    key = "data.stream"  # the configuration key that chooses the place
    again = "packing begins anew"
    size = 0  # bytes from which a writer could resume: none

    def __init__(self, place: Place):
        self.place, self.where = place, place.address
        self.items: list[bytes] = []  # of the current shard
        self.bytes = 0  # of the images in the current shard
        self.chunks: list[dict[str, Any]] = []

    def free(self) -> float:
        """Free bytes at the place."""
        return self.place.free()

    @contextmanager
    def opened(self, end: int) -> Iterator["ShardWriter"]:
        """Clear the place and yield this writer. `end` is always 0, because shards cannot resume."""
        self.place.clear()
        yield self

    def flush(self) -> None:
        """Do nothing: a shard is written when it is full."""

    def write(self, stored: bytes) -> None:
        self.items.append(len(stored).to_bytes(4, "little") + stored)
        self.bytes += len(stored)
        if self.bytes >= SHARD:
            self._close()

    def finish(self, sizes: np.ndarray) -> dict[str, Any]:
        """Write the last shard and the index; `sizes` (N,) are the bytes of each image.

        Returns "bytes", the total, and "shards", the number of images in each shard, for the packed set's JSON.
        """
        if self.items:
            self._close()
        config = {
            "chunk_bytes": SHARD,
            "chunk_size": None,
            "compression": None,
            "data_format": ["bytes"],
            "data_spec": ITEM,
            "encryption": None,
            "item_loader": "PyTreeLoader",
        }
        self.place.put(INDEX, json.dumps({"chunks": self.chunks, "config": config}).encode())
        return {"bytes": int(sizes.sum()), "shards": [chunk["chunk_size"] for chunk in self.chunks]}

    def _close(self) -> None:
        count = len(self.items)
        places = accumulate(map(len, self.items), initial=4 * (count + 2))
        shard = np.array([count, *places], "<u4").tobytes() + b"".join(self.items)
        name = f"chunk-0-{len(self.chunks)}.bin"
        self.place.put(name, shard)
        self.chunks.append({"chunk_bytes": len(shard), "chunk_size": count, "dim": None, "filename": name})
        self.items, self.bytes = [], 0


def chunks(place: Place, shards: list[int]) -> list[dict[str, Any]] | None:
    """The index's entry for each shard; None if a shard is missing or has a wrong size.

    `shards` are the expected numbers of images in each shard.
    """
    sizes = place.sizes()
    try:
        with parsing(INDEX, "an index of shards"):
            found: list[dict[str, Any]] = json.loads(place.text(INDEX))["chunks"] if INDEX in sizes else []
            whole = all(sizes.get(chunk["filename"]) == chunk["chunk_bytes"] for chunk in found)
            return found if whole and [chunk["chunk_size"] for chunk in found] == shards else None
    except Damaged:
        return None


class Shards:
    """A store of images in shards. An item is pixels or, if `compressed`, an encoded image."""

    decodes = True

    def __init__(self, place: Place, shards: list[int], shape: tuple[int, int, int], compressed: bool):
        """`shards` are the numbers of images in each shard; `shape` is (C, H, W). Raises UserError if any is gone."""
        self.place, self.shape, self.compressed = place, shape, compressed
        found = chunks(place, shards)
        if found is None:
            raise UserError(
                f"data.stream: the shards at {place.address} are not all there; name where they are with data.stream="
                "PLACE, or run gan-data to pack them there"
            )
        self.chunks, self.starts = found, np.cumsum([0, *shards])
        self.opened = lru_cache(OPEN)(self._open)

    def _open(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of a shard, and the offsets (N + 1,) of its items: their starts and the end of the last item."""
        chunk = self.chunks[shard]
        with parsing(f"data.stream: {self.place.address}/{chunk['filename']}", "the shard that it was", AGAIN):
            content = np.asarray(self.place.fetch(chunk["filename"], chunk["chunk_bytes"]))
        return content, content[4 : 4 * (chunk["chunk_size"] + 2)].view("<u4").astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def bytes_of(self, i: int) -> bytes:
        shard = int(np.searchsorted(self.starts, i, side="right")) - 1
        content, places = self.opened(shard)
        at = i - self.starts[shard]
        return content[places[at] + 4 : places[at + 1]].tobytes()

    def gather(self, index: Tensor) -> Tensor:
        stored = map(self.bytes_of, index.tolist())
        with parsing(f"data.stream: {self.place.address}", "whole, as one of its shards shows", AGAIN):
            if self.compressed:
                return torch.from_numpy(decode_all(stored, self.shape))
            pixels = np.frombuffer(bytearray().join(stored), np.uint8)
            return torch.from_numpy(pixels.reshape(len(index), *self.shape))

    def stored(self) -> Iterator[bytes]:
        return map(self.bytes_of, range(len(self)))
