"""Checks before the first step: which combinations of parts a run refuses, and which ones it warns about."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ganduel import batches
from ganduel.data.image_set import ImageSet, Pair
from ganduel.data.points import PointSet
from ganduel.game import Game, Generator, PointGame
from ganduel.losses import AdversarialLoss
from ganduel.regularizers import PathLength, Regularizer
from ganduel.schedules import Schedule
from ganduel.system import distributed
from ganduel.system.errors import UserError
from ganduel.turns import Gate

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def check_gate(gate: Gate, loss: AdversarialLoss) -> None:
    """Raise UserError if the gate needs an accuracy and the loss has none, or if D could never move.

    D could never move if the floor is above the loss of a discriminator that is undecided about every image.
    """
    if gate.accuracy_ceiling is not None and loss.boundary is None:
        raise UserError(
            f"turns.accuracy_ceiling={gate.accuracy_ceiling} needs D's accuracy, but this loss has none, because it "
            "only compares logits: set turns.accuracy_ceiling=null, or loss=nonsaturating, least_squares or hinge"
        )
    undecided = torch.tensor([loss.boundary or 0.0])
    start = loss.discriminator(undecided, undecided, None).item()
    if gate.loss_floor is not None and start < gate.loss_floor:
        raise UserError(
            f"turns.loss_floor={gate.loss_floor} is above {start:.3g}, the loss of a D that cannot tell real from "
            f"fake. Such a D could never change: set turns.loss_floor below {start:.3g}, or null"
        )


def check_adaptive(game: Game, loss: AdversarialLoss) -> None:
    """Raise UserError if an augmentation adapts to D's accuracy and the loss has no accuracy."""
    for transform in [part for chain in game.chains.values() for part in chain.parts if part.adaptive]:
        if loss.boundary is None:
            name = type(transform).__name__.lower()
            raise UserError(
                f"augment={name} adapts to how often D is right, and this loss only compares logits: fix its "
                f"strength with augment.{name}.target=null augment.{name}.p=0.2, or set loss=nonsaturating, "
                "least_squares or hinge"
            )


def check_scheduled(game: Game, schedules: Mapping[str, Schedule]) -> None:
    """Raise UserError if a schedule moves a number that adapts."""
    for chain in game.chains.values():
        for name, transform in zip(chain.names, chain.transforms, strict=False):
            for key in getattr(transform, "dials", {}):
                if f"augment.{name}.{key}" in schedules and getattr(transform, "adaptive", False):
                    raise UserError(
                        f"schedule.augment.{name}.{key}: {key} adapts to D already; set augment.{name}.target=null for "
                        "the schedule, or leave the schedule out"
                    )


def check_path_length(game: Game, penalties: dict[str, Regularizer]) -> None:
    """Raise UserError if a path length penalty is not G's, or if a generator does not start from noise."""
    for name, regularizer in penalties.items():
        if not isinstance(regularizer.fn, PathLength):
            continue
        if regularizer.player != "G":
            raise UserError(f"regularizer.{name}.player={regularizer.player}: path lengths are G's; set G")
        if not all(isinstance(generator, Generator) for generator in game.generators.values()):
            raise UserError(
                f"regularizer={name} needs generators that start from noise, but this model's generators start from "
                "images: leave the penalty out"
            )


def check_synchronised(game: Game, penalties: dict[str, Regularizer]) -> None:
    """Raise UserError if a penalty needs second derivatives of batch normalisation over several GPUs."""
    for player, networks in (("discriminator", game.discriminators), ("generator", game.generators)):
        gradients = {name: r.fn for name, r in penalties.items() if r.of_gradients}
        through = [n for n, fn in gradients.items() if isinstance(fn, PathLength) or player == "discriminator"]
        if through and has_batch_norm(networks):
            raise UserError(
                f"regularizer={','.join(through)} over several GPUs cannot differentiate twice through batch "
                f"normalisation: set model.{player}.norm=layer"
            )


def check_points(game: Game, images: ImageSet | Pair) -> None:
    """Raise UserError if a model for images gets points, or a model for points gets images."""
    if isinstance(images, PointSet) != isinstance(game, PointGame):
        what, needs = (
            ("points", "model=points") if isinstance(images, PointSet) else ("images", "data=ring or data=grid")
        )
        raise UserError(f"data={images.about['name']} are {what}, which this model does not take: set {needs}")


def check_size(batch_size: int, images: ImageSet | Pair) -> None:
    """Raise UserError if a batch is larger than the data set."""
    if batch_size > images.count:
        raise UserError(
            f"batch_size={batch_size} is larger than the data set: {images.count} training images; "
            f"set batch_size={images.count} or less"
        )


def check_labels(game: Game, images: ImageSet | Pair) -> None:
    """Raise UserError if the game has classes, and the images have no labels or labels of more classes."""
    classes = getattr(game, "classes", 0)
    labels = images.labels
    if classes and labels is None:
        raise UserError(
            f"model.classes={classes}: the images of data={images.about['name']} have no labels; set model.classes=0"
        )
    if classes and labels is not None and int(labels.max()) >= classes:
        raise UserError(
            f"model.classes={classes}: data={images.about['name']} has {int(labels.max()) + 1} classes; "
            f"set model.classes={int(labels.max()) + 1}"
        )


def has_batch_norm(networks: nn.Module) -> bool:
    return any(isinstance(m, BATCH_NORM) for m in networks.modules())


def doubts(game: Game, loss: AdversarialLoss, penalties: dict[str, Regularizer], batch_size: int) -> list[str]:
    """Warnings about settings that are allowed but unlikely to be intended."""
    doubts = []
    if loss.logits and any(getattr(d, "output", None) == "sigmoid" for d in game.discriminators.values()):
        doubts.append(
            "model.discriminator.output=sigmoid with a loss that applies a sigmoid itself: the second sigmoid weakens "
            "D's gradients; use it only for comparisons"
        )
    own = [name for name, r in penalties.items() if r.player == "D" and r.of_gradients]
    if own and has_batch_norm(game.discriminators):
        doubts.append(
            f"regularizer={','.join(own)} with batch normalisation in D: batch normalisation mixes the images of a "
            "batch, so the penalty cannot measure D's gradient at each image; set model.discriminator.norm=layer"
        )
    wanted = max(batches.group_size(discriminator) for discriminator in game.discriminators.values())
    found = batches.group(batch_size // game.pack, wanted)
    if found < wanted:
        alone = ", so it cannot detect that all images look alike" if found == 1 else ""
        doubts.append(
            f"batch_size={batch_size}: model.discriminator compares images in groups of {found}, not of {wanted} (its "
            f"stddev_group){alone}; set a multiple of {wanted * game.pack}"
        )
    return doubts


def micro_batch(batch: int, micro: Any, game: Game, penalties: dict[str, Regularizer]) -> int:
    """The number of images that one process holds at once.

    `micro` is a number, "auto", or None for the process's whole share of the batch. Raises UserError if the processes
    and micro batches cannot divide the batch like this.
    """
    world = distributed.world()
    if micro not in (None, "auto") and (not isinstance(micro, int) or isinstance(micro, bool)):
        raise UserError(f"micro_batch={micro} is not allowed; it takes a number, auto or null")
    if batch % world:
        raise UserError(f"batch_size={batch} cannot be shared by {world} processes; set a multiple of {world}")
    over = f" over {world} processes" if world > 1 else ""
    if batch % (world * game.pack):
        raise UserError(
            f"batch_size={batch}{over} cannot be divided into packs of {game.pack} images (model.pack); set a multiple "
            f"of {world * game.pack}"
        )
    share, functions = batch // world, {name: regularizer.fn for name, regularizer in penalties.items()}
    sizes = batches.sizes(game, functions, batch, world)
    if not sizes:
        possible = [n for n in range(1, world) if batch % n == 0 and batches.sizes(game, functions, batch, n)]
        fewer = f" or fewer processes ({max(possible)})" if possible else ""
        reason = batches.objection(game, functions, batch, share)
        raise UserError(f"batch_size={batch}{over} {reason}; take a larger batch_size{fewer}")
    micro = share if micro in (None, "auto") else micro  # auto: a trial before training finds the number
    if micro not in sizes:
        uneven = f"does not divide the {share} images of a process" if share % micro else None
        reason = uneven or batches.objection(game, functions, batch, micro)
        raise UserError(f"micro_batch={micro} {reason}; it takes {', '.join(map(str, sizes))}")
    return micro
