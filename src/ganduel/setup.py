"""From a configuration to a trainer that is ready to step."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ganduel import build, checkpoint, distributed, randomness
from ganduel.data import doctor
from ganduel.data.loading import ImageSet, open_images, single
from ganduel.data.prepare import prepare
from ganduel.device import precision
from ganduel.ema import EMA
from ganduel.errors import UserError
from ganduel.evaluation.features import check_features
from ganduel.pace import Clock, Duration
from ganduel.terminal import say
from ganduel.trainer import Trainer

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def assemble(config: dict[str, Any], device: torch.device, fresh: bool = True) -> tuple[Trainer, Clock]:
    """Build and check everything; only then, where needed, pack the data. A `fresh` run starts from `init_from`.

    Raises UserError for whatever can be known to be wrong before the first step.
    """
    allow, seed, batch_size = config["allow"], config["seed"], config["batch_size"]
    dtype = precision(config["precision"], device)
    micro = micro_batch(config)
    half_life = Duration.parse(config["ema"]["half_life"], "ema.half_life")
    loss = build.part(config["loss"], "loss", allow)
    regularizers = build.parts(config["regularizer"], "regularizer", allow)
    pace = build.part(config["pace"], "pace", allow)
    schedule = build.part(config["scheduler"], "scheduler", allow)
    torch.manual_seed(randomness.key(seed, "initialisation"))
    game = build.game(config["model"], config["augment"], allow)
    if device.type == "cuda" and distributed.world() > 1:
        if regularizers and any(isinstance(m, BATCH_NORM) for m in game.discriminators.modules()):
            raise UserError(
                f"regularizer=[{','.join(regularizers)}] over several GPUs cannot differentiate twice through batch "
                "normalisation: set model.discriminator.norm=layer"
            )
        game = nn.SyncBatchNorm.convert_sync_batchnorm(game)
    game.to(device).to(memory_format=torch.channels_last)
    if config["init_from"] is not None and fresh:
        initialise(game, config["init_from"])
    distributed.broadcast(game)
    if micro == 1 and any(isinstance(m, nn.BatchNorm1d) for m in game.modules()):
        raise UserError("micro_batch=1 leaves batch normalisation of vectors nothing to normalise by; set 2 or more")
    players = {"D": game.discriminators, "G": game.generators}
    optimizers = {
        name: build.optimizer(
            config["optimizer"][name],
            f"optimizer.{name}",
            allow,
            networks,
            [r for r in regularizers.values() if r.player == name],
            device,
        )
        for name, networks in players.items()
    }
    images = image_set(config, device)
    if batch_size > images.count:
        raise UserError(
            f"batch_size={batch_size} is larger than the data set: {images.count} training images; "
            f"set batch_size={images.count} or less"
        )
    if config["metric"]["which"]:
        check_features(config["metric"]["features"], config["metric"]["weights"], images)
    clock = Clock(batch_size * pace.n_critic, pace.n_generator, images.count)
    ema = EMA(game.generators, clock.images(half_life), config["ema"]["ramp"])
    trainer = Trainer(
        game,
        loss,
        regularizers,
        pace,
        images,
        ema,
        optimizers,
        schedule,
        seed=seed,
        batch_size=batch_size,
        micro_batch=micro,
        dtype=dtype,
        device=device,
    )
    return trainer, clock


def micro_batch(config: dict[str, Any]) -> int:
    """Images that one process holds at once. Raises UserError where the batch cannot be divided evenly."""
    batch, world = config["batch_size"], distributed.world()
    if batch % world:
        raise UserError(f"batch_size={batch} cannot be shared by {world} processes; set a multiple of {world}")
    share = batch // world
    micro = config["micro_batch"] or share
    if share % micro:
        divisors = ", ".join(str(m) for m in range(1, share + 1) if share % m == 0)
        raise UserError(f"micro_batch={micro} does not divide the {share} images of a process; it takes {divisors}")
    return micro


def image_set(config: dict[str, Any], device: torch.device) -> ImageSet:
    """The packed data set; the first process packs it where needed, and reports on it."""
    data = config["data"]
    paths: list[Path] = []
    for turn in range(2):  # the first process packs, then the others find it packed
        if distributed.is_main() == (turn == 0):
            paths.append(
                prepare(data, config["workers"], config["allow"], tell=lambda about: say(doctor.report(about)))
            )
        distributed.barrier()
    return single(open_images(paths[0], data, seed=config["seed"], device=device, mirror=data["mirror"]))


def initialise(game: nn.Module, where: str) -> None:
    """Start from the weights of a checkpoint or run folder."""
    content = checkpoint.load(checkpoint.find(where, "init_from"))
    try:
        game.load_state_dict(content["state"]["game"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"init_from={where}: its networks are not those of this run ({reason})") from error
