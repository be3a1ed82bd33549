"""What a batch may be divided into: parts whose gradients, averaged, are those of the whole.

Micro batches and processes divide it alike: of k parts, each takes every k-th image. Batch normalisation and spectral
normalisation still see the parts; such runs are allowed, and told.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganduel.game import Batch, Game


def group(count: int, together: int) -> int:
    """How many of `count` images are compared with each other: the largest number that divides `count`, and is at most
    `together`."""
    return max(size for size in range(1, min(count, together) + 1) if count % size == 0)


def first(count: int, share: float) -> int:
    """How many images a share (above 0, at most 1) of `count` images is, rounded up."""
    return math.ceil(share * count * (1 - 1e-12))  # 0.07 * 100 is a little more than 7


def together(discriminator: nn.Module) -> int:
    """How many images a discriminator wants to compare with each other; see `Critic.both`."""
    return max(1, getattr(discriminator, "together", 1))


Penalties = Mapping[str, Any]
"""Functions of a duel, by name. One that takes only the first images of a batch is a module with a `share`."""


def objection(game: Game, penalties: Penalties, batch: int, part: int) -> str | None:
    """Why a batch of `batch` images may not be divided into parts of `part` images; None where it may.

    `part` must divide `batch`.
    """
    shares = {name: fn.share for name, fn in penalties.items() if hasattr(fn, "share")}
    fewest = min((first(part, share) for share in shares.values()), default=part)
    if fewest == 1 and any(isinstance(module, nn.BatchNorm1d) for module in game.modules()):
        return "leaves batch normalisation of vectors a single image, and so nothing to normalise by"
    for discriminator in game.discriminators.values():
        # Image i is compared with i + batch / group, i + 2 batch / group, ...: parts keep such a group if, and only if,
        # they compare as many images, so if the group divides them.
        size = group(batch, together(discriminator))
        if part % size:
            return f"changes the groups of {size} images that model.discriminator compares (its stddev_group)"
    for name, share in shares.items():
        # The first images of all parts are the first images of the batch if, and only if, they are as many.
        whole, parts = first(batch, share), first(part, share) * (batch // part)
        if parts != whole:
            return (
                f"makes regularizer.{name} take {parts} images of the batch instead of {whole} (its fn.share={share})"
            )
    return None


def sizes(game: Game, penalties: Penalties, batch: int, world: int) -> list[int]:
    """All sizes of micro batches that each of `world` processes may divide its share of a batch into, the smallest
    first."""
    share = batch // world
    return [n for n in range(1, share + 1) if share % n == 0 and objection(game, penalties, batch, n) is None]


def split(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into micro batches of `size` images: of k, each takes every k-th image.

    So groups of images as far apart as possible (`minibatch_deviation`) lie within one, as in the whole batch.
    """
    k = max(1, len(batch["seed"]) // size)  # fewer images, the last in validation, are one part
    return [{name: t[i::k] for name, t in batch.items()} for i in range(k)]


def joined(parts: list[Tensor]) -> Tensor:
    """The inverse of `split`: the images of all micro batches, in the order of the whole batch."""
    return torch.stack(parts, dim=1).flatten(0, 1) if len(parts) > 1 else parts[0]
