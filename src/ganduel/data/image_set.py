"""Image sets, and their batches: gathered by index, moved to the device as bytes, and converted there."""

import copy
import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganduel import randomness
from ganduel.augment import Chain
from ganduel.data.order import Sharded, Shuffled
from ganduel.data.resize import resize_all
from ganduel.data.store import Indexed
from ganduel.system.device import move

Batch = dict[str, Tensor]
BLOCK = 4096  # places of an epoch whose images are computed at once


class ImageSet:
    """The training and validation images of one run, from a packed set. Their order depends only on the seed."""

    def __init__(
        self,
        store: Indexed,
        about: dict[str, Any],
        train: Tensor,
        validation: Tensor,
        *,
        labels: Tensor | None = None,
        resolution: int,
        seed: int | str = 0,
        mirror: bool = False,
        augment: Chain,
        device: torch.device,
    ):
        """`train` and `validation` are indices (N,) into the store; `about` is the packed set's JSON.

        If the packed images are larger than `resolution`, training uses a random square of each, and previews and
        metrics use the middle square. `wholes` gives an image set whose previews and metrics use the whole images.
        `augment` is applied to training batches only.
        """
        self.store, self.about, self.train, self.validation, self.labels = store, about, train, validation, labels
        # Shuffled, so that any part of the validation images represents all of them. In shards they keep their stored
        # order, so that each shard is read only once.
        mixed = shuffled("held out", len(validation))
        self.mixed = validation[mixed] if about["shards"] is None else validation
        self.seed, self.mirror, self.augment, self.device = seed, mirror, augment, device
        self.shape = store.shape[0], resolution, resolution
        self.margin = store.shape[1] - resolution
        self.whole = False
        # The training images as they lie in the store, and the order of their numbers. Without shards, any will do.
        self.stored, sizes = (train, None) if about["shards"] is None else _by_shard(about["shards"], train)
        self.shuffle = Shuffled(seed, len(train)) if sizes is None else Sharded(seed, sizes)
        self.block = lru_cache(4)(self._block)
        self.position = 0  # of the last batch
        self.ahead: dict[tuple[int, int], Future[Tensor]] = {}  # the batch that is probably requested next
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="reader") if store.decodes else None

    @property
    def count(self) -> int:
        """The number of training images: one epoch."""
        return len(self.train)

    @property
    def held_out(self) -> int:
        """The number of validation images."""
        return len(self.validation)

    @property
    def modes(self) -> int:
        """The number of modes that can be told apart: classes, or 0 if there are none."""
        return int(self.labels.max()) + 1 if self.labels is not None and self.labels.ndim == 1 else 0

    @property
    def tested(self) -> Tensor:
        """Indices of the images to test on: the validation images or, if there are none, the training images."""
        return self.validation if self.held_out else self.train

    @property
    def fingerprint(self) -> str:
        """A hash of the training images: of the packed pixels and of the training indices."""
        return self.identity(self.train)

    def identity(self, index: Tensor) -> str:
        """A hash of images: of the packed pixels and of the indices (N,). Crops and whole images differ, too."""
        digest = hashlib.sha256(self.about["content"].encode())
        digest.update(index.numpy().data)
        if self.margin:
            digest.update(f"{'whole ' if self.whole else ''}{self.shape}".encode())
        return digest.hexdigest()[:16]

    def gather(self, index: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8, on the device; `index` holds their indices (N,) in the store."""
        images = self.store.gather(index)
        if self.margin and self.whole:
            recipe = self.about["recipe"]
            return move(
                torch.from_numpy(resize_all(images.cpu().numpy(), self.shape[1], recipe["resize"])), self.device
            )
        middle = slice(self.margin // 2, self.margin // 2 + self.shape[1])
        return move(images[..., middle, middle], self.device)

    def wholes(self) -> "ImageSet":
        """The same images, but `gather` resizes each whole packed image instead of taking its middle square.

        The resize filter is that of packing. `identity` gives another hash for these images.
        """
        other = copy.copy(self)
        other.whole = True
        return other

    def preview(self, count: int) -> Tensor:
        """The first `count` training images (N, C, H, W), uint8."""
        return self.gather(self.train[:count])

    def batch(self, position: int, count: int, stride: int = 1) -> Batch:
        """Training images `position`, `position + stride`, ... of the endless shuffled sequence.

        Returns "real", float (N, C, H, W) in [-1, 1], and "label", int64 (N,) or (N, K), if the set has labels.
        """
        positions = torch.arange(position, position + count * stride, stride)
        seed = randomness.seeds(self.seed, "mirror", first=position, count=count, stride=stride)
        index = self.order(positions)
        images = normalise(move(self._crop(self._read(positions, index), seed), self.device))
        if self.mirror:
            flip = randomness.uniform(seed, (1, 1, 1), "mirror") < 0.5
            images = torch.where(move(flip, self.device), images.flip(3), images)
        if len(self.augment.transforms):
            with torch.no_grad():
                images = self.augment(images, move(seed, self.device))
        return {"real": images, **self._label(index)}

    def _crop(self, images: Tensor, seed: Tensor) -> Tensor:
        """Crop a random square from each image. The place depends only on the image's seed."""
        if not self.margin:
            return images
        side = self.shape[1]
        places = (randomness.uniform(seed, (2,), "crop") * (self.margin + 1)).long().tolist()  # on the CPU
        squares = zip(images, places, strict=True)
        return torch.stack([image[:, top : top + side, left : left + side] for image, (top, left) in squares])

    def validation_batch(self, position: int, count: int, stride: int = 1) -> Batch:
        """Validation images `position`, `position + stride`, ..., in the format of `batch`, without augmentation.

        The sequence is the same in every run and starts again after its last image.
        """
        positions = torch.arange(position, position + count * stride, stride)
        index = self.mixed[positions % self.held_out]
        return {"real": normalise(self.gather(index)), **self._label(index)}

    def _label(self, index: Tensor) -> Batch:
        """The labels of the images with these indices in the store; {} if the set has no labels."""
        return {} if self.labels is None else {"label": move(self.labels[index.long()].long(), self.device)}

    def order(self, positions: Tensor) -> Tensor:
        """The store indices, int64 (N,), of the training images at positions (N,) of the endless shuffled sequence.

        Positions must rise.
        """
        within, each = positions % self.count, -(-self.count // BLOCK)
        blocks = positions // self.count * each + within // BLOCK
        first, last = int(blocks[0]), int(blocks[-1])
        if first == last:  # as in most batches
            return self.block(first)[within % BLOCK]
        found = torch.empty_like(within)
        for block in blocks.unique().tolist():
            here = blocks == block
            found[here] = self.block(block)[within[here] % BLOCK]
        return found

    def _block(self, number: int) -> Tensor:
        """The store indices (`BLOCK`,) of a part of an epoch. Batch by batch, they would cost ten times as much."""
        epoch, part = divmod(number, -(-self.count // BLOCK))
        places = np.arange(part * BLOCK, min((part + 1) * BLOCK, self.count))
        return self.stored[torch.from_numpy(self.shuffle(epoch, places))].long()

    def _read(self, positions: Tensor, index: Tensor) -> Tensor:
        """The training images at these positions, which have these indices in the store, as stored.

        If the store must decode, a thread starts on the next batch at once. Its expected position is as far from this
        batch as this batch is from the last one.
        """
        if self.reader is None:
            return self.store.gather(index)
        position, count = int(positions[0]), len(positions)
        begun = self.ahead.pop((position, count), None)
        now = begun.result() if begun else self.store.gather(index)
        expected = 2 * position - self.position, count
        if expected[0] > position and expected not in self.ahead:
            self.ahead.clear()
            following = positions + (expected[0] - position)
            self.ahead[expected] = self.reader.submit(lambda: self.store.gather(self.order(following)))
        self.position = position
        return now


class Pair:
    """Two unpaired image sets, A and B, each with its own order. An epoch covers the larger set once."""

    def __init__(self, a: ImageSet, b: ImageSet):
        self.sides = {"A": a, "B": b}
        self.about, self.shape, self.device, self.labels, self.augment = a.about, a.shape, a.device, None, a.augment

    @property
    def count(self) -> int:
        return max(side.count for side in self.sides.values())

    @property
    def held_out(self) -> int:
        return max(side.held_out for side in self.sides.values()) if all(s.held_out for s in self.sides.values()) else 0

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("".join(side.fingerprint for side in self.sides.values()).encode()).hexdigest()[:16]

    def preview(self, count: int) -> Tensor:
        """The first training images (N, C, H, W), uint8: half from A, half from B."""
        return torch.cat([side.preview(count // 2) for side in self.sides.values()])

    def batch(self, position: int, count: int, stride: int = 1) -> Batch:
        """ "A" and "B", each the "real" images of `ImageSet.batch`."""
        return {name: side.batch(position, count, stride)["real"] for name, side in self.sides.items()}

    def validation_batch(self, position: int, count: int, stride: int = 1) -> Batch:
        """ "A" and "B", each the "real" images of `ImageSet.validation_batch`.

        Within `held_out` images, those of the smaller set repeat.
        """
        return {name: side.validation_batch(position, count, stride)["real"] for name, side in self.sides.items()}


def normalise(images: Tensor) -> Tensor:
    """Convert uint8 to float in [-1, 1], in the memory format channels_last, which is fast for convolutions.

    Points are floats already, and stay as they are.
    """
    if images.dtype != torch.uint8:
        return images
    return images.contiguous(memory_format=torch.channels_last).float().div_(127.5).sub_(1)


def to_bytes(images: Tensor) -> Tensor:
    """Convert [-1, 1] to uint8, rounded to the nearest: the inverse of `normalise`."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _by_shard(sizes: list[int], train: Tensor) -> tuple[Tensor, np.ndarray]:
    """The training images (N,) as they lie in shards of these sizes, and the number of them in each shard (S,)."""
    stored = train if bool((train[1:] > train[:-1]).all()) else train.sort().values  # `data.limit` mixes them
    ends = torch.searchsorted(stored, torch.tensor(sizes).cumsum(0).to(stored.dtype))
    return stored, np.diff(ends.numpy(), prepend=0)


def shuffled(what: str, count: int) -> Tensor:
    """A random permutation of `count` numbers, int64 (N,), in memory. It never changes: it says who is held out."""
    generator = torch.Generator().manual_seed(randomness.key(what, "order", 0))
    return torch.randperm(count, generator=generator, dtype=torch.int32).long()
