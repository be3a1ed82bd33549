"""Build a trainer from a configuration, ready for its first step."""

from typing import NamedTuple

import torch

from ganduel import build, checkpoint, checks, dials, randomness
from ganduel.augment import Chain
from ganduel.clock import Clock, Duration
from ganduel.config.schema import Train
from ganduel.data import inspection
from ganduel.data.image_set import ImageSet, Pair
from ganduel.data.loading import open_images, suited
from ganduel.data.prepare import prepare
from ganduel.ema import EMA
from ganduel.evaluation.digit_classifier import check_features
from ganduel.evaluation.evaluate import needs_features
from ganduel.game import Game
from ganduel.losses import AdversarialLoss
from ganduel.models import triton_kernels
from ganduel.models.frozen import check_same_frozen, synchronise_batch_norm
from ganduel.regularizers import Projection, Regularizer
from ganduel.schedules import Schedule
from ganduel.speed import graphs
from ganduel.speed.compile import Compiled
from ganduel.system import distributed
from ganduel.system.device import configure, precision
from ganduel.system.errors import UserError
from ganduel.system.terminal import say
from ganduel.trainer import Trainer
from ganduel.turns import Turns

NETWORKS = "generators.", "discriminators."


class Method(NamedTuple):
    """The parts that say how to train the networks."""

    half_life: Duration | None  # of the averaged generators; None: the generators themselves
    loss: AdversarialLoss
    regularizers: dict[str, Regularizer | Projection]
    turns: Turns
    schedules: dict[str, Schedule]

    @property
    def penalties(self) -> dict[str, Regularizer]:
        return {name: r for name, r in self.regularizers.items() if isinstance(r, Regularizer)}


def assemble(config: Train, device: torch.device, fresh: bool = True) -> tuple[Trainer, Clock]:
    """Build and check all parts. A data set that is not packed yet is packed after all checks that need no images.

    A `fresh` run starts from the weights of `init_from`; a resumed run ignores `init_from`. Raises UserError for every
    mistake that can be found before the first step.
    """
    dtype = precision(config.precision, device)
    configure(tf32=config.tf32, cudnn_benchmark=config.cudnn_benchmark)
    triton_kernels.enabled = config.triton
    method = build_method(config)
    game = build_game(config, method, device)
    method = method._replace(loss=judged(method.loss, game))
    micro = checks.micro_batch(config.batch_size, config.micro_batch, game, method.penalties)
    move_networks(game, device)
    set_first_weights(game, config.init_from if fresh else None)
    optimizers = build_optimizers(config, game, method.penalties, device)
    images = open_checked(config, game, device)
    trainer = build_trainer(config, method, game, images, optimizers, micro, dtype, device)
    dials.check(trainer.moved, trainer.clock, trainer.clock.left(Duration.parse(config.duration, "duration")))
    accelerate(trainer, config)
    warn(game, method, config.batch_size)
    return trainer, trainer.clock


def build_method(config: Train) -> Method:
    """Build the parts that say how to train."""
    half_life = None if config.ema.half_life is None else Duration.parse(config.ema.half_life, "ema.half_life")
    loss = build.part(config.loss, "loss", config.allow)
    regularizers = build.parts(config.regularizer, "regularizer", config.allow)
    turns = build.part(config.turns, "turns", config.allow)
    if turns.gate is not None:
        checks.check_gate(turns.gate, loss)
    schedules = build.schedules(config.scheduler, config.schedule, config.allow)
    return Method(half_life, loss, regularizers, turns, schedules)


def build_game(config: Train, method: Method, device: torch.device) -> Game:
    """Initialise the networks from the seed. On several GPUs, batch normalisation uses the images of all GPUs."""
    torch.manual_seed(randomness.key(config.seed, "initialisation"))
    game = build.game(config.model, config.augment, config.allow)
    checks.check_adaptive(game, method.loss)
    checks.check_path_length(game, method.penalties)
    checks.check_scheduled(game, method.schedules)
    if device.type == "cuda" and distributed.world() > 1:
        checks.check_synchronised(game, method.penalties)
        synchronise_batch_norm(game)
    return game


def move_networks(game: Game, device: torch.device) -> None:
    """Move the networks to the device, in channels_last: convolutions are faster in this memory order."""
    game.to(device).to(memory_format=torch.channels_last)


def set_first_weights(game: Game, init_from: str | None) -> None:
    """Give all processes the same first weights: random ones from the seed, or those of `init_from`.

    Raises UserError if their pretrained networks differ, because these are not sent.
    """
    if init_from is not None:
        load_networks(game, init_from)
    check_same_frozen(game)
    distributed.broadcast(game)


def build_optimizers(
    config: Train, game: Game, penalties: dict[str, Regularizer], device: torch.device
) -> dict[str, torch.optim.Optimizer]:
    """One optimizer for each player, "D" and "G"."""
    return {
        name: build.optimizer(
            config.optimizer[name],
            f"optimizer.{name}",
            config.allow,
            networks,
            {n: r for n, r in penalties.items() if r.player == name},
            device,
        )
        for name, networks in (("D", game.discriminators), ("G", game.generators))
    }


def open_checked(config: Train, game: Game, device: torch.device) -> ImageSet | Pair:
    """Open the images. Raises UserError if they do not suit the game, the batch size or the metrics."""
    images = image_set(config, device, game.domains)
    checks.check_points(game, images)
    checks.check_labels(game, images)
    checks.check_size(config.batch_size, images)
    if needs_features(config.metric.which):
        check_features(config.metric.features, config.metric.weights, images)
    return images


def judged(loss: AdversarialLoss, game: Game) -> AdversarialLoss:
    """The loss with the boundary of D's outputs. It is 0.5 if D ends in a sigmoid, whatever the loss expects."""
    ends = any(getattr(d, "output", None) == "sigmoid" for d in game.discriminators.values())
    return loss._replace(boundary=0.5) if ends and loss.boundary is not None else loss


def build_trainer(
    config: Train,
    method: Method,
    game: Game,
    images: ImageSet | Pair,
    optimizers: dict[str, torch.optim.Optimizer],
    micro_batch: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Trainer:
    """Build the trainer, with its clock and its averaged generators."""
    clock = Clock(config.batch_size * method.turns.batches, method.turns.n_generator, images.count)
    return Trainer(
        game,
        method.loss,
        method.regularizers,
        method.turns,
        clock,
        images,
        EMA(game.generators, clock.images(method.half_life) if method.half_life else 0.0, config.ema.ramp),
        optimizers,
        method.schedules,
        seed=config.seed,
        batch_size=config.batch_size,
        micro_batch=micro_batch,
        loss_ema=config.loss_ema,
        dtype=dtype,
        device=device,
    )


def accelerate(trainer: Trainer, config: Train) -> None:
    """Compile networks and capture CUDA graphs, if the configuration asks for it."""
    if config.compile and trainer.turns.unroll:
        raise UserError(
            "compile=true: compiled networks cannot be differentiated twice, as turns.unroll needs; set compile=false"
        )
    if config.compile:
        trainer.executor = Compiled(trainer.executor)
    if config.cuda_graphs is not False:
        graphs.capture_phases(trainer, required=config.cuda_graphs is True)


def warn(game: Game, method: Method, batch_size: int) -> None:
    """Warn about settings that are allowed but unlikely to be intended. Only the first process prints."""
    if distributed.is_main():
        for warning in checks.doubts(game, method.loss, method.penalties, batch_size):
            say(f"warning: {warning}")


def image_set(config: Train, device: torch.device, domains: tuple[str, ...]) -> ImageSet | Pair:
    """Open the packed data set. If it is not packed yet, the first process packs it and prints a report.

    Raises UserError if the data set does not have the `domains` of the game.
    """
    data = config.data
    transforms = build.parts(data.augment, "data.augment", config.allow)
    chain = Chain(*transforms.values(), names=[*transforms]).to(device)
    if chain.adaptive:
        raise UserError("data.augment: what adapts to D cannot change real images alone; select it with augment=NAME")
    path = distributed.in_turn(
        lambda: prepare(
            data,
            config.workers,
            build.source(data, config.allow),
            tell=lambda about: say(inspection.report(about)),
        )
    )
    images = open_images(path, data, seed=config.seed, device=device, mirror=data.mirror, augment=chain)
    return suited(images, domains)


def load_networks(game: Game, where: str) -> None:
    """Load the networks of a checkpoint or run folder. State that adapts, such as the strength of ADA, starts anew.

    Raises UserError if the networks do not fit.
    """
    content = checkpoint.load(checkpoint.find(where, "init_from"))
    networks = {k: v for k, v in content["state"]["game"].items() if k.startswith(NETWORKS)}
    try:
        own = {k: v for k, v in game.state_dict().items() if not k.startswith(NETWORKS)}
        game.load_state_dict(networks | own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"init_from={where}: its networks are not those of this run ({reason})") from error
