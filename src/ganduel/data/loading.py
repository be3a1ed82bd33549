"""Open a packed set as a run needs it: its images, those held out, and their labels."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganduel.augment import Chain
from ganduel.config.schema import Data
from ganduel.data.image_set import ImageSet, Pair, shuffled
from ganduel.data.points import PointSet
from ganduel.data.stacks import StackSet
from ganduel.data.store import PACKED_SET, Store, described, labels_path, open_store, resident
from ganduel.data.streaming import AGAIN, place
from ganduel.system.errors import UserError
from ganduel.system.files import file_hash, parsing


def open_images(
    path: Path,
    data: Data,
    *,
    seed: int,
    device: torch.device,
    mirror: bool = False,
    augment: Chain | None = None,
) -> ImageSet | Pair:
    """Open the packed set whose JSON is at `path`, as the data configuration `data` describes it.

    `mirror` and `augment` change training batches only. Raises UserError if the set is damaged or if no training image
    is left.
    """
    about = described(path)
    with parsing(path, PACKED_SET, AGAIN):
        store = open_store(path, about, place(path, data))
    if data.on_device is True or (data.on_device == "auto" and _fits(store, device)):
        store = resident(store, device)
    labels = _labels(labels_path(path), about)
    stackable = "trainA" not in about["splits"] and store.shape[0] == 1 and about["shards"] is None
    if data.stack.count is not None and not stackable:
        raise UserError(
            f"data.stack.count={data.stack.count}: only sets of one domain in one file can be stacked, and data.name="
            f"{about['name']} is none, or data.stream is set; set data.stack.count=null"
        )
    ends = np.cumsum([0, *about["splits"].values()]).tolist()
    parts = {name: torch.arange(*ends[i : i + 2], dtype=torch.int32) for i, name in enumerate(about["splits"])}
    kind = PointSet if "plane" in about else ImageSet
    shared: dict[str, Any] = {"mirror": mirror, "augment": augment or Chain(), "device": device}
    shared["resolution"] = data.resolution
    if data.stack.count is not None and data.stack.of == "all":
        parts = {"all": torch.cat([*parts.values()])}
    sides = []
    for domain in ("A", "B") if "trainA" in parts else ("",):
        train, *rest = [part for name, part in parts.items() if name.endswith(domain)]
        train, validation = _split(train, rest[0] if rest else train[:0], data.validation)
        if data.limit is not None:
            train = train[shuffled("limit", len(train))[: data.limit]]
        own = f"{seed}{domain}" if domain else seed
        sides.append(kind(store, about, train, validation, labels=labels, seed=own, **shared))
    if data.stack.count is not None:
        return StackSet(sides[0], data.stack.count, data.stack.seed, shared)
    return Pair(*sides) if len(sides) == 2 else sides[0]


def _labels(file: Path, about: dict[str, Any]) -> Tensor | None:
    """The labels of all packed images; None if the set has none. Raises UserError if the file is damaged."""
    if "labelled" not in about:
        return None
    with parsing(file, "a file of labels", AGAIN):
        if file_hash(file) != about["labelled"]:
            raise ValueError("its checksum does not match")
        return torch.from_numpy(np.load(file))


def suited(images: ImageSet | Pair, domains: tuple[str, ...]) -> ImageSet | Pair:
    """Return `images` if they fit a game with these domains: ("real",) or ("A", "B"). Otherwise raise UserError."""
    if isinstance(images, Pair) and domains == ("real",):
        raise UserError(
            f"data={images.about['name']} has two domains, A and B, and the model has only one; choose one "
            "domain with data=folder data.root=FOLDER/trainA, or model=cyclegan"
        )
    if isinstance(images, ImageSet) and domains != ("real",):
        raise UserError(
            f"data={images.about['name']} has one domain, and the model translates between two; choose "
            "data=horse2zebra, or data=folder_pair with folders trainA and trainB in data.root"
        )
    return images


def _fits(store: Store, device: torch.device) -> bool:
    """Whether the pixels fit into a quarter of the GPU's free memory. False for stores that decode."""
    return (
        device.type == "cuda"
        and not store.decodes
        and len(store) * int(np.prod(store.shape)) < torch.cuda.mem_get_info(device)[0] // 4
    )


def _split(train: Tensor, held_out: Tensor, validation: float | None) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the validation images.

    `validation` is None for the official parts; otherwise it is the share (below 1) or the number of training images to
    hold out. The choice does not depend on the seed, so any two runs train on the same images. Raises UserError if no
    training image is left.
    """
    if validation is None:
        return train, held_out
    count = round(validation * len(train)) if validation < 1 else int(validation)
    if count >= len(train):
        raise UserError(
            f"data.validation={validation} leaves none of {len(train)} images to train on; set a smaller share or count"
        )
    held_out = torch.zeros(len(train), dtype=torch.bool)
    held_out[shuffled("validation", len(train))[:count]] = True
    return train[~held_out], train[held_out]
