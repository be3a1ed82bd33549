"""Batches of a packed set: gathered by index from the mapped file, moved as bytes, made floats on the device."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganduel import randomness
from ganduel.errors import UserError


class ImageSet:
    """A packed set as one run sees it: its training and validation images, in an order that depends on the seed
    alone."""

    def __init__(
        self,
        path: Path,
        *,
        limit: int | None,
        validation: float | None,
        mirror: bool,
        seed: int,
        device: torch.device,
    ):
        """`path` is the packed set's JSON. `validation` is a share below 1, a number of images, or None for the
        official split.

        The split and `limit`, which takes so many training images after a shuffle, do not depend on the seed: two runs
        train on the same images.
        """
        self.about: dict[str, Any] = json.loads(path.read_text())
        self.seed, self.mirror, self.device = seed, mirror, device
        labels = path.with_suffix(".labels.npy")
        self.labels = torch.from_numpy(np.load(labels)) if labels.exists() else None
        # Copy-on-write: the file stays as it is, and PyTorch does not mind a map that may be written to.
        self.pixels = torch.from_numpy(np.load(path.with_suffix(".npy"), mmap_mode="c"))
        if device.type == "cuda" and self.pixels.numel() < torch.cuda.mem_get_info(device)[0] // 4:
            self.pixels = self.pixels.to(device)
        self.train, self.validation = _split(self.about, validation)
        if limit is not None:
            self.train = self.train[_permutation("limit", 0, len(self.train))[:limit]]

    @classmethod
    def configured(
        cls, path: Path, data: dict[str, Any], *, seed: int, device: torch.device, mirror: bool = False
    ) -> "ImageSet":
        """The set as a data configuration describes it."""
        return cls(path, limit=data["limit"], validation=data["validation"], mirror=mirror, seed=seed, device=device)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def fingerprint(self) -> str:
        """Identifies the training images: their pixels, and which of them are trained on."""
        return hashlib.sha256(self.about["content"].encode() + self.train.numpy().tobytes()).hexdigest()[:16]

    def gather(self, index: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8, on the device."""
        return _move(self.pixels.index_select(0, _move(index, self.pixels.device)), self.device)

    def batch(self, position: int, count: int) -> Tensor:
        """Training images `position` to `position + count` of the endless shuffled sequence: float (N, C, H, W) in [-1,
        1]."""
        positions = torch.arange(position, position + count)
        epochs, within = positions // len(self.train), positions % len(self.train)
        index = torch.cat(
            [_permutation(self.seed, int(e), len(self.train))[within[epochs == e]] for e in epochs.unique()]
        )
        images = normalise(self.gather(self.train[index]))
        if self.mirror:
            seed = randomness.seeds(self.seed, "mirror", first=position, count=count, device=self.device)
            flip = randomness.uniform(seed, (1, 1, 1), "mirror") < 0.5
            images = torch.where(flip, images.flip(3), images)
        return images

    def validation_batch(self, position: int, count: int) -> Tensor:
        """`count` validation images from a position that wraps around, in [-1, 1]."""
        index = torch.arange(position, position + count) % len(self.validation)
        return normalise(self.gather(self.validation[index]))


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """To a device; from pinned memory where that is what it takes for nobody to wait."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def normalise(images: Tensor) -> Tensor:
    """uint8 to float in [-1, 1], in the memory format that convolutions like."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] to uint8, rounded to the nearest; the inverse of `normalise`."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _split(about: dict[str, Any], validation: float | None) -> tuple[Tensor, Tensor]:
    """Indices of the training and the validation images."""
    official = about["official_train"]
    pool = torch.arange(about["images"] if official is None else official)
    if validation is None:
        return pool, torch.arange(len(pool), about["images"])
    count = round(validation * len(pool)) if validation < 1 else int(validation)
    if count >= len(pool):
        raise UserError(
            f"data.validation={validation} leaves none of {len(pool)} images to train on; set a smaller share or count"
        )
    shuffled = pool[_permutation("validation", 0, len(pool))]
    return shuffled[count:].sort()[0], shuffled[:count].sort()[0]


@lru_cache(maxsize=4)
def _permutation(seed: int | str, epoch: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(randomness.key(seed, "order", epoch))
    return torch.randperm(count, generator=generator)
