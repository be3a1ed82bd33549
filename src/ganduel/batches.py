"""How a batch may be divided, so that the mean of the parts' gradients is the gradient of the whole batch.

Micro batches and processes divide it in the same way: of k parts, each takes every k-th image. Batch normalisation and
spectral normalisation still work on the parts. Such runs are allowed, with a note.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganduel.game import Batch, Game


def group(count: int, most: int) -> int:
    """Size of the groups of images that D compares: the largest divisor of `count` up to `most`."""
    return max(size for size in range(1, min(count, most) + 1) if count % size == 0)


def first(count: int, share: float) -> int:
    """Number of images in a `share` of `count` images, rounded up; the share is above 0 and at most 1."""
    return math.ceil(share * count * (1 - 1e-12))  # in floats, 0.07 * 100 is slightly above 7


def group_size(discriminator: nn.Module) -> int:
    """Number of images, or of packs, that a discriminator compares; see `AugmentedDiscriminator.both`."""
    return max(1, getattr(discriminator, "group_size", 1))


def together(game: Game) -> int:
    """Number of images that the logit of one image may depend on: those of its pack, and those it is compared with."""
    return game.pack * max(group_size(discriminator) for discriminator in game.discriminators.values())


Penalties = Mapping[str, Any]
"""Penalties, as functions of a duel, by name. A module with a `share` uses only the first images of a batch."""


def objection(game: Game, penalties: Penalties, batch: int, part: int) -> str | None:
    """The reason not to divide `batch` images into parts of `part` images; None if there is none.

    `part` must divide `batch`.
    """
    shares = {name: fn.share for name, fn in penalties.items() if hasattr(fn, "share")}
    if part % game.pack:
        return f"breaks up the packs of {game.pack} images that D judges (model.pack)"
    fewest = min((first(part, share) for share in shares.values()), default=part)
    seen = (game.generators, fewest), (game.discriminators, part // game.pack)
    if any(n == 1 and isinstance(m, nn.BatchNorm1d) for networks, n in seen for m in networks.modules()):
        return "gives BatchNorm1d a single image, and it cannot normalise one image"
    for discriminator in game.discriminators.values():
        # D compares image i with i + batch / group, i + 2 batch / group, ... A strided part keeps these groups if, and
        # only if, the group size divides it.
        size = game.pack * group(batch // game.pack, group_size(discriminator))
        if part % size:
            return f"changes the groups of {size} images that model.discriminator compares (its stddev_group)"
    for name, share in shares.items():
        # The first images of all parts are the first images of the batch if, and only if, the numbers agree.
        whole, parts = first(batch, share), first(part, share) * (batch // part)
        if parts != whole:
            return (
                f"makes regularizer.{name} take {parts} images of the batch instead of {whole} (its fn.share={share})"
            )
    return None


def sizes(game: Game, penalties: Penalties, batch: int, world: int) -> list[int]:
    """All allowed sizes of a micro batch for each of `world` processes, the smallest first."""
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
