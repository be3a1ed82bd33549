"""Batches of a packed set: gathered by number, moved as bytes, made floats on the device."""

import copy
import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganduel import randomness
from ganduel.augment import Chain
from ganduel.config.schema import Data
from ganduel.data.store import Store, labels_path, open_store, resident
from ganduel.data.streaming import place
from ganduel.data.transform import resize_all
from ganduel.system.device import move
from ganduel.system.errors import UserError

Batch = dict[str, Tensor]
MIXED = 8  # shards whose images are mixed at any time


class ImageSet:
    """Images of a packed set as one run sees them: some to train on and some held out, in an order that depends on the
    seed alone."""

    def __init__(
        self,
        store: Store,
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
        """`train` and `validation` are the numbers of images in the store, (N,); `about` is the packed set's JSON.

        Of images that are packed larger than `resolution` a random square is trained on, and the middle one shown and
        measured; `wholes` shows and measures all of them instead. `augment` changes what is trained on.
        """
        self.store, self.about, self.train, self.validation, self.labels = store, about, train, validation, labels
        # A part of them is like the whole; but in shards they stay as they are stored, so that each is read once.
        mixed = _order("held out", 0, len(validation)).long()
        self.mixed = validation[mixed] if about["shards"] is None else validation
        self.seed, self.mirror, self.augment, self.device = seed, mirror, augment, device
        self.shape = store.shape[0], resolution, resolution
        self.margin = store.shape[1] - resolution
        self.whole = False
        self.orders: dict[int, Tensor] = {}
        # The shard of every training image, counted among those that have any; None: all images are equally near.
        self.shards = None if about["shards"] is None else _shards(about["shards"], train)
        self.position = 0  # of the last batch
        self.ahead: dict[tuple[int, int], Future[Tensor]] = {}  # the batch that will probably be asked for next
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="reader") if store.decodes else None

    @property
    def count(self) -> int:
        """Training images, an epoch."""
        return len(self.train)

    @property
    def held_out(self) -> int:
        """Validation images."""
        return len(self.validation)

    @property
    def tested(self) -> Tensor:
        """The numbers of the images to test on: those held out or, where there are none, those trained on."""
        return self.validation if self.held_out else self.train

    @property
    def fingerprint(self) -> str:
        """Identifies the training images: their pixels, and which of them are trained on."""
        return self.identity(self.train)

    def identity(self, index: Tensor) -> str:
        """Identifies images by their pixels and their numbers."""
        digest = hashlib.sha256(self.about["content"].encode())
        digest.update(index.numpy().data)
        if self.margin:
            digest.update(f"{'whole ' if self.whole else ''}{self.shape}".encode())
        return digest.hexdigest()[:16]

    def gather(self, index: Tensor) -> Tensor:
        """Images (N, C, H, W), uint8, on the device, by their numbers in the store."""
        images = self.store.gather(index)
        if self.margin and self.whole:
            recipe = self.about["recipe"]
            return move(
                torch.from_numpy(resize_all(images.cpu().numpy(), self.shape[1], recipe["resize"])), self.device
            )
        middle = slice(self.margin // 2, self.margin // 2 + self.shape[1])
        return move(images[..., middle, middle], self.device)

    def wholes(self) -> "ImageSet":
        """The same images, gathered whole: all that is packed of each, resized as originals are. These are others to
        `identity`."""
        other = copy.copy(self)
        other.whole = True
        return other

    def preview(self, count: int) -> Tensor:
        """The first so many training images (N, C, H, W), uint8."""
        return self.gather(self.train[:count])

    def batch(self, position: int, count: int, stride: int = 1) -> Batch:
        """Training images `position`, `position + stride`, ... of the endless shuffled sequence: "real", float
        (N, C, H, W) in [-1, 1], and "label", int64 (N,), where they have any."""
        positions = torch.arange(position, position + count * stride, stride)
        seed = randomness.seeds(self.seed, "mirror", first=position, count=count, stride=stride)
        images = normalise(move(self._crop(self._read(positions), seed), self.device))
        if self.mirror:
            flip = randomness.uniform(seed, (1, 1, 1), "mirror") < 0.5
            images = torch.where(move(flip, self.device), images.flip(3), images)
        if len(self.augment.transforms):
            with torch.no_grad():
                images = self.augment(images, move(seed, self.device))
        return {"real": images, **self._label(self.order(positions))}

    def _crop(self, images: Tensor, seed: Tensor) -> Tensor:
        """A random square of each image, at a place that is hashed from its seed."""
        if not self.margin:
            return images
        side = self.shape[1]
        places = (randomness.uniform(seed, (2,), "crop") * (self.margin + 1)).long().tolist()  # on the CPU
        squares = zip(images, places, strict=True)
        return torch.stack([image[:, top : top + side, left : left + side] for image, (top, left) in squares])

    def validation_batch(self, position: int, count: int, stride: int = 1) -> Batch:
        """Validation images `position`, `position + stride`, ... of a shuffled sequence, the same in every run, that
        begins again after its last; as `batch` gives them."""
        positions = torch.arange(position, position + count * stride, stride)
        index = self.mixed[positions % self.held_out]
        return {"real": normalise(self.gather(index)), **self._label(index)}

    def _label(self, index: Tensor) -> Batch:
        """The labels of images by their numbers in the store, where there are any."""
        return {} if self.labels is None else {"label": move(self.labels[index.long()].long(), self.device)}

    def order(self, positions: Tensor) -> Tensor:
        """The numbers of the training images at some positions (N,) of the endless shuffled sequence."""
        epochs, within = positions // self.count, positions % self.count
        orders = [self._epoch(int(e))[within[epochs == e]] for e in epochs.unique()]
        return self.train[torch.cat(orders).long()].long()

    def _epoch(self, epoch: int) -> Tensor:
        """The order of an epoch. The one before is kept as well: a batch may lie in two."""
        orders = self.orders  # which another thread may replace
        if epoch not in orders:
            before = {e: order for e, order in orders.items() if e == epoch - 1}
            self.orders = orders = {**before, epoch: _order(self.seed, epoch, self.count, self.shards)}
        return orders[epoch]

    def _read(self, positions: Tensor) -> Tensor:
        """Those images as the store has them. Where that takes decoding, the next batch is begun at once: the one that
        is as far from this one as this one from the last."""
        if self.reader is None:
            return self.store.gather(self.order(positions))
        position, count = int(positions[0]), len(positions)
        begun = self.ahead.pop((position, count), None)
        now = begun.result() if begun else self.store.gather(self.order(positions))
        expected = 2 * position - self.position, count
        if expected[0] > position and expected not in self.ahead:
            self.ahead.clear()
            following = positions + (expected[0] - position)
            self.ahead[expected] = self.reader.submit(lambda: self.store.gather(self.order(following)))
        self.position = position
        return now


class Pair:
    """Two sets of images without correspondence, A and B, each shuffled on its own; an epoch is one of the larger."""

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
        """The first training images, half of them from A."""
        return torch.cat([side.preview(count // 2) for side in self.sides.values()])

    def batch(self, position: int, count: int, stride: int = 1) -> Batch:
        """ "A" and "B", each as `ImageSet.batch` gives it."""
        return {name: side.batch(position, count, stride)["real"] for name, side in self.sides.items()}

    def validation_batch(self, position: int, count: int, stride: int = 1) -> Batch:
        """ "A" and "B", each as `ImageSet.validation_batch` gives it: in `held_out` images, the smaller side comes more
        than once."""
        return {name: side.validation_batch(position, count, stride)["real"] for name, side in self.sides.items()}


def open_images(
    path: Path,
    data: Data,
    *,
    seed: int,
    device: torch.device,
    mirror: bool = False,
    augment: Chain | None = None,
) -> ImageSet | Pair:
    """A packed set, given by its JSON, as a data configuration describes it; to train on it mirrored and augmented."""
    about: dict[str, Any] = json.loads(path.read_text())
    store = open_store(path, about, place(path, data))
    if data.on_device is True or (data.on_device == "auto" and _fits(store, device)):
        store = resident(store, device)
    labels = _labels(labels_path(path), about)
    ends = np.cumsum([0, *about["splits"].values()]).tolist()
    parts = {name: torch.arange(*ends[i : i + 2], dtype=torch.int32) for i, name in enumerate(about["splits"])}
    sides = []
    for domain in ("A", "B") if "trainA" in parts else ("",):
        train, *rest = [part for name, part in parts.items() if name.endswith(domain)]
        train, validation = _split(train, rest[0] if rest else train[:0], data.validation)
        if data.limit is not None:
            train = train[_order("limit", 0, len(train))[: data.limit]]
        sides.append(
            ImageSet(
                store,
                about,
                train,
                validation,
                labels=labels,
                resolution=data.resolution,
                seed=f"{seed}{domain}" if domain else seed,
                mirror=mirror,
                augment=augment or Chain(),
                device=device,
            )
        )
    return Pair(*sides) if len(sides) == 2 else sides[0]


def _labels(file: Path, about: dict[str, Any]) -> Tensor | None:
    """Of all packed images. Raises UserError where they are damaged."""
    if "labelled" not in about:
        return None
    try:
        labels = torch.from_numpy(np.load(file))
        if len(labels) != about["images"]:
            raise ValueError(f"{len(labels)} for {about['images']} images")
        return labels
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is damaged ({error}); gan-data with the same data= packs it anew") from error


def suited(images: ImageSet | Pair, domains: tuple[str, ...]) -> ImageSet | Pair:
    """These images, if their kinds are those that a game's batches have. Raises UserError."""
    if isinstance(images, Pair) and domains == ("real",):
        raise UserError(
            f"data={images.about['name']} holds images of two kinds, A and B, and the model makes images of one; take "
            "one kind with data=folder data.root=FOLDER/trainA, or model=cyclegan"
        )
    if isinstance(images, ImageSet) and domains != ("real",):
        raise UserError(
            f"data={images.about['name']} holds images of one kind, and the model translates between two; take "
            "data=horse2zebra, or data=folder_pair with folders trainA and trainB in data.root"
        )
    return images


def _fits(store: Store, device: torch.device) -> bool:
    """Whether pixels would leave a GPU most of its memory."""
    return (
        device.type == "cuda"
        and not store.decodes
        and len(store) * int(np.prod(store.shape)) < torch.cuda.mem_get_info(device)[0] // 4
    )


def normalise(images: Tensor) -> Tensor:
    """uint8 to float in [-1, 1], in the memory format that convolutions like."""
    return images.contiguous(memory_format=torch.channels_last).float().div_(127.5).sub_(1)


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] to uint8, rounded to the nearest; the inverse of `normalise`."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _split(train: Tensor, held_out: Tensor, validation: float | None) -> tuple[Tensor, Tensor]:
    """The training and the validation images: the official parts, or so many (or such a share) of the first held out.

    This does not depend on the seed: two runs train on the same images.
    """
    if validation is None:
        return train, held_out
    count = round(validation * len(train)) if validation < 1 else int(validation)
    if count >= len(train):
        raise UserError(
            f"data.validation={validation} leaves none of {len(train)} images to train on; set a smaller share or count"
        )
    held_out = torch.zeros(len(train), dtype=torch.bool)
    held_out[_order("validation", 0, len(train))[:count].long()] = True
    return train[~held_out], train[held_out]


def _shards(sizes: list[int], train: Tensor) -> Tensor:
    """The shard of every training image (N,): 0 for those of the first that has any, and so on."""
    shard = torch.bucketize(train, torch.tensor(sizes).cumsum(0), right=True)
    return torch.unique(shard, return_inverse=True)[1]


def _order(seed: int | str, epoch: int, count: int, shards: Tensor | None = None) -> Tensor:
    """A permutation of so many images. With the shard of each, shards come in a random order, each spread over the time
    of `MIXED`, so that no more of them are in use at once; the last ones reach into the beginning."""
    generator = torch.Generator().manual_seed(randomness.key(seed, "order", epoch))
    if shards is None:
        return torch.randperm(count, generator=generator, dtype=torch.int32)
    total = int(shards.max()) + 1
    start = torch.randperm(total, generator=generator)[shards]
    time = start + min(MIXED, total) * torch.rand(count, generator=generator, dtype=torch.float64)
    return (time % total).argsort(stable=True).int()
