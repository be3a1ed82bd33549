"""Stacks of grey images, one image a channel: Stacked MNIST (Srivastava et al. 2017, "VEEGAN"), and the like.

A stack is never stored. It is three indices into a packed set of grey images, so there can be any number of stacks.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor

from ganduel import randomness
from ganduel.data.image_set import ImageSet
from ganduel.data.store import Indexed

CHANNELS = 3


class Stacks:
    """A store of stacks, uint8 (3, H, W), made of the grey images of another store when they are asked for."""

    def __init__(self, store: Indexed, parts: Tensor):
        """`parts` (N, 3) are the indices of the grey images for red, green and blue."""
        self.store, self.parts, self.decodes = store, parts, store.decodes
        self.shape = CHANNELS, *store.shape[1:]

    def __len__(self) -> int:
        return len(self.parts)

    def gather(self, index: Tensor) -> Tensor:
        grey = self.store.gather(self.parts[index.cpu().long()].flatten())
        return grey.unflatten(0, (-1, CHANNELS)).squeeze(2)


class StackSet(ImageSet):
    """`count` training stacks of the training images of `single`, and a stack for each of its held-out images.

    `single` holds grey images. `seed` says which of them each stack has. `shared` are the settings that both sets have:
    see `ImageSet`.
    """

    def __init__(self, single: ImageSet, count: int, seed: int, shared: dict[str, Any]):
        counts = {"train": count, "held out": single.held_out}
        among = {"train": single.train, "held out": single.validation}
        made = torch.cat([drawn(among[part], count, seed, part) for part, count in counts.items() if count])
        train, held_out = torch.arange(len(made), dtype=torch.int32).split([*counts.values()])
        super().__init__(
            Stacks(single.store, made),
            described(single.about, made, counts),
            train,
            held_out,
            labels=None if single.labels is None else labelled(single.labels, made),
            seed=single.seed,
            **shared,
        )
        self.single = single

    @property
    def modes(self) -> int:
        """The number of different stacks of classes, such as 1,000 of three digits."""
        return self.single.modes**CHANNELS


def drawn(among: Tensor, count: int, seed: int, part: str) -> Tensor:
    """The parts (count, 3) of stacks, int64: for each channel any image of `among` (M,), all equally likely."""
    generator = torch.Generator().manual_seed(randomness.key(seed, "stack", part))
    return among.long()[torch.randint(len(among), (count, CHANNELS), generator=generator)]


def labelled(labels: Tensor, parts: Tensor) -> Tensor:
    """The labels (N,) of stacks. With ten classes, red is the hundreds digit, green the tens and blue the ones."""
    classes = int(labels.max()) + 1
    return labels[parts] @ torch.tensor([classes**2, classes, 1])


def described(about: dict[str, Any], parts: Tensor, splits: dict[str, int]) -> dict[str, Any]:
    """The description of a set of stacks, from that of its grey images."""
    content = hashlib.sha256(about["content"].encode() + parts.numpy().tobytes()).hexdigest()
    names = about["labels"]
    stacked = ["".join(map(str, (a, b, c))) for a in names for b in names for c in names] if len(names) <= 10 else []
    return {**about, "content": content, "images": len(parts), "splits": splits, "labels": stacked}
