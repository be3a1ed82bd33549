"""From a configuration to a trainer that is ready to step."""

from typing import Any

import torch
from torch import nn

from ganduel import batches, checkpoint, randomness
from ganduel.augment import Chain
from ganduel.config import build
from ganduel.data import inspection
from ganduel.data.loading import ImageSet, Pair, open_images, suited
from ganduel.data.prepare import prepare
from ganduel.ema import EMA
from ganduel.evaluation.digit_classifier import check_features
from ganduel.game import Game, Generator
from ganduel.losses import AdversarialLoss
from ganduel.pace import Clock, Duration, Gate
from ganduel.regularizers import PathLength, Regularizer
from ganduel.speed import graphs
from ganduel.speed.compile import Compiled
from ganduel.system import distributed
from ganduel.system.device import configure, precision
from ganduel.system.errors import UserError
from ganduel.system.terminal import say
from ganduel.trainer import Trainer

NETWORKS = "generators.", "discriminators."
BATCH_NORM = nn.modules.batchnorm._BatchNorm


def assemble(config: dict[str, Any], device: torch.device, fresh: bool = True) -> tuple[Trainer, Clock]:
    """Build and check everything; only then, where needed, pack the data. A `fresh` run starts from `init_from`.

    Raises UserError for whatever can be known to be wrong before the first step.
    """
    allow, seed, batch_size = config["allow"], config["seed"], config["batch_size"]
    dtype = precision(config["precision"], device)
    configure(tf32=config["tf32"], cudnn_benchmark=config["cudnn_benchmark"])
    half_life = Duration.parse(config["ema"]["half_life"], "ema.half_life")
    loss = build.part(config["loss"], "loss", allow)
    regularizers = build.parts(config["regularizer"], "regularizer", allow)
    penalties = {n: r for n, r in regularizers.items() if isinstance(r, Regularizer)}
    pace = build.part(config["pace"], "pace", allow)
    if pace.gate is not None:
        check_gate(pace.gate, loss)
    schedule = build.part(config["scheduler"], "scheduler", allow)
    torch.manual_seed(randomness.key(seed, "initialisation"))
    game = build.game(config["model"], config["augment"], allow)
    check_adaptive(game, loss)
    check_path_length(game, penalties)
    if device.type == "cuda" and distributed.world() > 1:
        for player, networks in (("discriminator", game.discriminators), ("generator", game.generators)):
            through = [n for n, r in penalties.items() if isinstance(r.fn, PathLength) or player == "discriminator"]
            if through and has_batch_norm(networks):
                raise UserError(
                    f"regularizer=[{','.join(through)}] over several GPUs cannot differentiate twice through batch "
                    f"normalisation: set model.{player}.norm=layer"
                )
        game = nn.SyncBatchNorm.convert_sync_batchnorm(game)
    micro = micro_batch(config, game, penalties)
    game.to(device).to(memory_format=torch.channels_last)
    if config["init_from"] is not None and fresh:
        initialise(game, config["init_from"])
    distributed.broadcast(game)
    players = {"D": game.discriminators, "G": game.generators}
    optimizers = {
        name: build.optimizer(
            config["optimizer"][name],
            f"optimizer.{name}",
            allow,
            networks,
            {n: r for n, r in penalties.items() if r.player == name},
            device,
        )
        for name, networks in players.items()
    }
    images = image_set(config, device, game.domains)
    check_labels(game, images)
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
        clock,
        images,
        ema,
        optimizers,
        schedule,
        seed=seed,
        batch_size=batch_size,
        micro_batch=micro,
        loss_ema=config["loss_ema"],
        dtype=dtype,
        device=device,
    )
    if config["compile"]:
        trainer.executor = Compiled(trainer.executor)
    if config["cuda_graphs"] is not False:
        graphs.capture_phases(trainer, required=config["cuda_graphs"] is True)
    if distributed.is_main():
        for warning in doubts(game, loss, penalties, batch_size):
            say(f"warning: {warning}")
    return trainer, clock


def check_gate(gate: Gate, loss: AdversarialLoss) -> None:
    """Raise UserError for a gate that this loss cannot ask, or that would keep D out for ever."""
    if gate.accuracy_ceiling is not None and loss.boundary is None:
        raise UserError(
            f"pace.accuracy_ceiling={gate.accuracy_ceiling} needs an accuracy, which this loss does not have, for it "
            "only compares logits: set pace.accuracy_ceiling=null, or loss=nonsaturating, least_squares or hinge"
        )
    undecided = torch.tensor([loss.boundary or 0.0])
    start = loss.discriminator(undecided, undecided, None).item()
    if gate.loss_floor is not None and start < gate.loss_floor:
        raise UserError(
            f"pace.loss_floor={gate.loss_floor} is above {start:.3g}, the loss of a D that cannot tell real from fake, "
            f"which could then never move: set it below {start:.3g}, or null"
        )


def check_adaptive(game: Game, loss: AdversarialLoss) -> None:
    """Raise UserError for an augmentation that adapts to what this loss does not say."""
    for transform in [part for chain in game.chains.values() for part in chain.parts if part.adaptive]:
        if loss.boundary is None:
            name = type(transform).__name__.lower()
            raise UserError(
                f"augment=[{name}] adapts to how often D is right, and this loss only compares logits: fix its "
                f"strength with augment.{name}.target=null augment.{name}.p=0.2, or set loss=nonsaturating, "
                "least_squares or hinge"
            )


def check_path_length(game: Game, penalties: dict[str, Regularizer]) -> None:
    """Raise UserError for a path length of networks that make images of something else than noise."""
    for name, regularizer in penalties.items():
        if not isinstance(regularizer.fn, PathLength):
            continue
        if regularizer.player != "G":
            raise UserError(f"regularizer.{name}.player={regularizer.player}: path lengths are G's; set G")
        if not all(isinstance(generator, Generator) for generator in game.generators.values()):
            raise UserError(
                f"regularizer=[{name}] needs generators that start from noise; this model's do not: drop it"
            )


def check_labels(game: Game, images: ImageSet | Pair) -> None:
    """Raise UserError where a game that knows classes gets images that have none, or others."""
    classes = getattr(game, "classes", 0)
    labels = images.labels
    if classes and labels is None:
        raise UserError(f"model.classes={classes}: the images of data={images.about['name']} have no labels; set 0")
    if classes and labels is not None and int(labels.max()) >= classes:
        raise UserError(
            f"model.classes={classes}: data={images.about['name']} has {int(labels.max()) + 1} classes; set as many"
        )


def has_batch_norm(networks: nn.Module) -> bool:
    return any(isinstance(m, BATCH_NORM) for m in networks.modules())


def doubts(game: Game, loss: AdversarialLoss, penalties: dict[str, Regularizer], batch_size: int) -> list[str]:
    """What can be done, but is hardly meant."""
    doubts = []
    if loss.logits and any(getattr(d, "output", None) == "sigmoid" for d in game.discriminators.values()):
        doubts.append(
            "model.discriminator.output=sigmoid in front of a loss that has a sigmoid of its own: the second one "
            "weakens D's gradients, and D's accuracy, counted from 0, says nothing; meant for comparisons"
        )
    own = [name for name, r in penalties.items() if r.player == "D"]
    if own and has_batch_norm(game.discriminators):
        doubts.append(
            f"regularizer=[{','.join(own)}] with batch normalisation in D: the gradient at one image reaches through "
            "the batch's statistics to the others, so no image is penalised for itself; set "
            "model.discriminator.norm=layer"
        )
    wanted = max(batches.together(discriminator) for discriminator in game.discriminators.values())
    found = batches.group(batch_size, wanted)
    if found < wanted:
        alone = ", so it cannot see whether they all look alike" if found == 1 else ""
        doubts.append(
            f"batch_size={batch_size}: model.discriminator compares images in groups of {found}, not of {wanted} (its "
            f"stddev_group){alone}; set a multiple of {wanted}"
        )
    return doubts


def micro_batch(config: dict[str, Any], game: Game, penalties: dict[str, Regularizer]) -> int:
    """Images that one process holds at once. Raises UserError where the batch cannot be divided like this."""
    batch, micro, world = config["batch_size"], config["micro_batch"], distributed.world()
    if micro not in (None, "auto") and (not isinstance(micro, int) or isinstance(micro, bool)):
        raise UserError(f"micro_batch={micro} is not allowed; it takes a number, auto or null")
    if batch % world:
        raise UserError(f"batch_size={batch} cannot be shared by {world} processes; set a multiple of {world}")
    share, functions = batch // world, {name: regularizer.fn for name, regularizer in penalties.items()}
    sizes = batches.sizes(game, functions, batch, world)
    if not sizes:
        over = f" over {world} processes" if world > 1 else ""
        possible = [n for n in range(1, world) if batch % n == 0 and batches.sizes(game, functions, batch, n)]
        fewer = f" or fewer processes ({max(possible)})" if possible else ""
        reason = batches.objection(game, functions, batch, share)
        raise UserError(f"batch_size={batch}{over} {reason}; take a larger batch_size{fewer}")
    micro = share if micro in (None, "auto") else micro  # auto: tried out before training
    if micro not in sizes:
        uneven = f"does not divide the {share} images of a process" if share % micro else None
        reason = uneven or batches.objection(game, functions, batch, micro)
        raise UserError(f"micro_batch={micro} {reason}; it takes {', '.join(map(str, sizes))}")
    return micro


def image_set(config: dict[str, Any], device: torch.device, domains: tuple[str, ...]) -> ImageSet | Pair:
    """The packed data set, of these kinds of images; the first process packs it where needed, and reports on it."""
    data = config["data"]
    chain = Chain(*build.parts(data["augment"], "data.augment", config["allow"]).values()).to(device)
    if chain.adaptive:
        raise UserError("data.augment: what adapts to D cannot change real images alone; select it with augment=[...]")
    path = distributed.in_turn(
        lambda: prepare(
            data,
            config["workers"],
            build.source(data, config["allow"]),
            tell=lambda about: say(inspection.report(about)),
        )
    )
    images = open_images(path, data, seed=config["seed"], device=device, mirror=data["mirror"], augment=chain)
    return suited(images, domains)


def initialise(game: Game, where: str) -> None:
    """Start from the weights of a checkpoint or run folder; what adapts to a run starts anew."""
    content = checkpoint.load(checkpoint.find(where, "init_from"))
    networks = {k: v for k, v in content["state"]["game"].items() if k.startswith(NETWORKS)}
    try:
        own = {k: v for k, v in game.state_dict().items() if not k.startswith(NETWORKS)}
        game.load_state_dict(networks | own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"init_from={where}: its networks are not those of this run ({reason})") from error
