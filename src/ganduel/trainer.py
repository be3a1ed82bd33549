"""The training loop. `Trainer.iterate` is one iteration of any game; `Trainer.run` is one optimizer step of any phase.

Only this module calls backward, step, zero_grad and autocast, and averages gradients over processes. So gradient
accumulation, mixed precision, EMA and several processes work for every model.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganduel import dials, randomness, sharing
from ganduel.augment import Chain
from ganduel.batches import split
from ganduel.clock import Clock
from ganduel.data.image_set import ImageSet, Pair
from ganduel.ema import EMA, decay
from ganduel.game import Batch, Duel, Game
from ganduel.losses import AdversarialLoss
from ganduel.phases import Adapt, Numbers, Phase, Term, check_names, phases
from ganduel.regularizers import Projection, Regularizer, still
from ganduel.schedules import Schedule
from ganduel.stats import Stats, merged
from ganduel.system import distributed
from ganduel.system.device import as_it_lies
from ganduel.turns import Gate, Turn, Turns

ACCURACIES = "accuracy/real", "accuracy/fake"


@dataclass
class Player:
    """D or G, with its networks, its optimizer and its phases."""

    networks: nn.ModuleDict
    optimizer: torch.optim.Optimizer
    phases: list[Phase]  # the main one first
    projections: list[Projection]
    turns: int  # in one iteration
    scaler: torch.amp.GradScaler  # does nothing unless the precision is fp16

    def __post_init__(self) -> None:
        # Lists, because a walk through all modules costs a tenth of a small step.
        self.parameters = [*self.networks.parameters()]
        self.trainable = [p for p in self.parameters if p.requires_grad]
        self.views = [view for group in self.optimizer.param_groups for view in group["params"]]

    def step(self) -> None:
        """One optimizer step, with the gradients of the parameters. Projections follow."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            view.grad = None if parameter.grad is None else as_it_lies(parameter.grad, parameter)
        self.scaler.step(self.optimizer)  # it first divides the gradients by its scale
        self.scaler.update()
        self.optimizer.zero_grad()  # of the views; `gradients` clears those of the parameters
        with torch.no_grad():
            for projection in self.projections:
                projection.fn([*self.parameters])


class Move(NamedTuple):
    """One phase of a turn, and its batch."""

    phase: Phase
    player: Player
    batch: Batch
    keep: bool = False  # keep the graph of the fakes for G's turn
    new: bool = False  # no turn has made these fakes before, so batch normalisation in G learns from them
    dropout: int | None = None  # seed of PyTorch's generator; equal for turns that make the same fakes


Outcome = tuple[list[list[Duel]], Stats]
"""The result of a phase: the duels of each micro batch (none if the gate was closed), and the step's statistics."""


class Gradients(NamedTuple):
    """A phase whose gradients are computed, before its optimizer step."""

    met: list[list[Duel]]  # the duels of each micro batch
    stats: Stats
    verdict: Tensor | None  # what a gate asks for: D's adversarial loss and accuracy, (2,)


class Executor:
    """Runs phases directly. Other executors run them in another way, with the same results.

    `trainer.executor = Other(trainer.executor)` installs another executor, which calls the one before. It changes how
    whole phases run (`advance`), or only how their gradients are computed (`gradients`).
    """

    warm_up = 1  # the first iterations, which take longer than later ones
    separate = False  # each phase has its own memory, so no autograd graph can connect two phases

    def __init__(self, trainer: "Trainer"):
        self.trainer = trainer

    def advance(self, move: Move) -> Outcome:
        """One optimizer step of a phase."""
        return self.trainer.update(move, self.gradients(move))

    def gradients(self, move: Move) -> Gradients:
        """The gradients of a phase, in the parameters."""
        return self.trainer.gradients(move)

    def forget(self) -> None:
        """Drop all references to the memory of the present state. Called before another state is loaded."""


class Trainer:
    """Trains one game.

    `state_dict()` holds everything that changes. All other values are functions of the seed, the iteration and the
    clock.
    """

    def __init__(
        self,
        game: Game,
        loss: AdversarialLoss,
        regularizers: dict[str, Regularizer | Projection],
        turns: Turns,
        clock: Clock,
        images: ImageSet | Pair,
        ema: EMA,
        optimizers: dict[str, torch.optim.Optimizer],
        schedules: dict[str, Schedule],
        *,
        seed: int,
        batch_size: int,
        micro_batch: int,
        loss_ema: float,
        dtype: torch.dtype,
        device: torch.device,
    ):
        """`schedules` move numbers, by their keys (see `dials`). `batch_size` is the number of images of all processes
        together. `micro_batch` is the number of images that one process holds in memory at once. `loss_ema` is the
        half-life of the averaged losses, as a share of the images seen."""
        self.game, self.loss, self.turns, self.clock, self.images, self.ema = game, loss, turns, clock, images, ema
        self.seed, self.batch_size, self.micro_batch = seed, batch_size, micro_batch
        self.loss_ema, self.dtype, self.device = loss_ema, dtype, device
        self.images_per_iteration = clock.images_per_iteration
        self.iteration = 0
        self.stats = Stats()
        self.executor = Executor(self)
        self.sharing = sharing.Sharing(game, turns)
        penalties = {n: r for n, r in regularizers.items() if isinstance(r, Regularizer)}
        check_names(game, penalties)
        self.players = {name: self.player(name, regularizers, optimizers[name]) for name in ("D", "G")}
        self.trainable = [p for player in self.players.values() for p in player.trainable]
        self.drawn: tuple[int, Batch] = (-1, {})  # the last batch of real images, and its position
        modules = {name: r.fn for name, r in penalties.items() if isinstance(r.fn, nn.Module)}
        self.regularizers = nn.ModuleDict(modules).to(device)  # those with a state
        known = dials.dials(optimizers, penalties, game, images.augment, turns, ema, device)
        self.moved = dials.moved(schedules, dict(known))
        self.scheduled: dict[str, float] = {}  # their values in the last iteration, by key

    def player(
        self,
        name: str,
        regularizers: Mapping[str, Regularizer | Projection],
        optimizer: torch.optim.Optimizer,
    ) -> Player:
        """Build D or G, with its penalties and projections."""
        own = {n: r for n, r in regularizers.items() if r.player == name}
        if name == "D":
            networks = self.game.discriminators
            main = Phase([Term(self.discriminator_loss, mixed=True)], gate=self.turns.gate, adapts=self.augmentations())
        else:
            networks, main = self.game.generators, Phase([Term(self.generator_loss, mixed=True)])
        return Player(
            networks,
            optimizer,
            phases(main, {n: r for n, r in own.items() if isinstance(r, Regularizer)}),
            [r for r in own.values() if isinstance(r, Projection)],
            self.turns.count(name),
            torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16),
        )

    @property
    def images_seen(self) -> int:
        return self.clock.images_seen

    def iterate(self) -> None:
        """One iteration: all turns of both players, then the averaged networks."""
        for key, dial, schedule in self.moved:
            self.scheduled[key] = schedule(self.clock, dial.value)
            dial.set(self.scheduled[key])
        fakes: Batch = {}
        for turn in self.turns.order:
            fakes = self.take_turn(turn, fakes)
        with torch.no_grad():
            stream = (self.seed, "settle", self.iteration)
            self.game.after_iteration(randomness.seeds(*stream, first=0, count=self.batch_size, device=self.device))
        self.iteration += 1
        self.clock.tick()
        self.ema.update(self.images_per_iteration, self.images_seen)

    def take_turn(self, turn: Turn, fakes: Batch) -> Batch:
        """Run all phases of a turn that are due.

        `fakes` are the fakes that the turn before gave. Returns the fakes for the next turn; {} unless players share
        them.
        """
        player, batch = self.players[turn.player], self.draw(turn, fakes)
        nth = self.iteration * player.turns + turn.nth
        main, *lazy = (self.move(turn, phase, batch) for phase in player.phases)
        met = self.run(main)
        for move in lazy:
            if met and nth % move.phase.every == 0:
                self.run(move)
        return self.sharing.give(turn, met, graph=main.keep)

    def draw(self, turn: Turn, fakes: Batch | None = None) -> Batch:
        """This process's share of the turn's batch: of k processes, each takes every k-th image.

        The batch also holds the fakes that the turn takes from `fakes`, which the turn before gave.
        """
        world, rank = distributed.world(), distributed.rank()
        share = self.batch_size // world
        position = self.images_seen + turn.reals * self.batch_size + rank
        maker = self.sharing.maker(turn)
        stream = (self.seed, "turn", self.iteration, maker.player, maker.nth)
        seed = randomness.seeds(*stream, first=rank, count=share, stride=world, device=self.device)
        shared = self.sharing.take(turn, fakes or {}, seed)
        if self.drawn[0] != position:
            self.drawn = position, self.images.batch(position, share, stride=world)
        return {**self.drawn[1], **shared, "seed": seed}

    def move(self, turn: Turn, phase: Phase, batch: Batch) -> Move:
        """A phase of a turn with the turn's batch. The main phase runs first, so it makes the fakes."""
        player, maker = self.players[turn.player], self.sharing.maker(turn)
        where = distributed.rank(), maker.player, maker.nth
        dropout = randomness.key(self.seed, "dropout", self.iteration, *where)
        if phase is not player.phases[0]:
            return Move(phase, player, batch, dropout=dropout)
        in_one = len(batch["seed"]) <= self.micro_batch
        keep = self.sharing.keeps_graph(turn) and in_one and not self.executor.separate
        return Move(phase, player, batch, keep, new=self.sharing.new(turn), dropout=dropout)

    def run(self, move: Move) -> list[list[Duel]]:
        """One optimizer step of a phase, and the updates that depend on its statistics.

        Returns the duels of each micro batch; [] if the gate was closed.
        """
        met, stats = self.executor.advance(move)
        images = move.phase.every * self.images_per_iteration / move.player.turns  # before this phase is due again
        half_life = self.loss_ema * (self.images_seen + self.images_per_iteration)
        self.stats.merge(stats, kept=decay(images, half_life))
        if move.phase.adapts:
            stats.pool()
            means = {name: pair[0] / pair[1] for name, pair in stats.statistics.items()}
            for adapt in move.phase.adapts:
                adapt(means)
        return met

    def gradients(self, move: Move) -> Gradients:
        """Compute the gradients of a phase, over all micro batches and processes. Only the executor calls it.

        It takes no number from the clock: `iterate` has set those before. So an executor can capture it.
        """
        phase, player = move.phase, move.player
        for parameter in player.parameters:
            parameter.grad = None
        parts, met, verdicts, stats = split(move.batch, self.micro_batch), [], [], Stats()
        trainable = only_trainable(self.trainable if move.keep else player.trainable, among=self.trainable)
        with trainable, nullcontext() if move.new else still(self.game.generators):
            for i, part in enumerate(parts):
                if move.dropout is not None:
                    self.reseed(move.dropout, i)
                duels = sharing.duels(self.game, part)
                met.append(duels)
                numbers = []
                for term in phase.terms:
                    with self.autocast(term.mixed):
                        numbers.append(term.fn(part, duels))
                losses = merged(*(each.losses for each in numbers))
                total = torch.stack([*losses.values()]).sum()
                player.scaler.scale(total * (phase.every / len(parts))).backward()
                # The gradient scaler skips a step that is not finite. Its statistics must skip it, too.
                stats.add(
                    losses, merged(*(each.statistics for each in numbers)), finite_only=player.scaler.is_enabled()
                )
                verdicts += [each.verdict for each in numbers if each.verdict is not None]
        distributed.average_gradients(player.parameters)
        return Gradients(met, stats, torch.stack(verdicts).mean(0) if verdicts else None)

    def update(self, move: Move, gradients: Gradients) -> Outcome:
        """The optimizer step with the gradients of a phase, if the gate is open. Only the executor calls it."""
        met, stats, verdict = gradients
        gate = move.phase.gate
        if gate is not None and verdict is not None and self.ask(gate, verdict, stats):
            return [], stats
        move.player.step()
        return met, stats

    def reseed(self, seed: int, part: int) -> None:
        """Seed PyTorch's generator for micro batch number `part`. Only dropout uses this generator."""
        # `torch.manual_seed` seeds the generators of all devices, which costs a CPU's small step a tenth of its time.
        seed_all = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        seed_all(randomness.key(seed, part))

    def ask(self, gate: Gate, verdict: Tensor, stats: Stats) -> bool:
        """Whether the gate is closed, the same for all processes. Nothing else in an iteration waits for the device."""
        loss, accuracy = distributed.mean(verdict).tolist()
        closed = gate.closed(loss, accuracy)
        stats.add({}, {"gate/closed": torch.tensor(float(closed), device=self.device)})
        return closed

    def autocast(self, mixed: bool) -> torch.autocast:
        mixed = mixed and self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed)

    def discriminator_loss(self, batch: Batch, duels: list[Duel]) -> Numbers:
        losses: dict[str, Tensor] = {}
        statistics: dict[str, Tensor] = {}
        accuracies: list[Tensor] = []
        for duel in duels:
            duel.fake  # noqa: B018  made before D runs, as in G's turn, so that dropout is the same
        for duel in duels:
            real, fake = duel.logits
            # Labels are flipped and smoothed only in training, like dropout.
            seed = duel.seed[: len(real)] if self.game.discriminators.training else None  # one for each logit
            losses[f"D{duel.name}"] = self.loss.discriminator(real, fake, seed)
            judged = self.judgement(real, fake)
            statistics |= {f"{what}{duel.name}": value for what, value in judged.items()}
            accuracies += [value for what, value in judged.items() if what in ACCURACIES]
        accuracy = torch.stack(accuracies).mean() if accuracies else torch.full((), math.nan, device=self.device)
        verdict = torch.stack([torch.stack([*losses.values()]).detach().mean(), accuracy])
        return Numbers(losses, statistics, verdict)

    def generator_loss(self, batch: Batch, duels: list[Duel]) -> Numbers:
        losses = {}
        fakes = [duel.fake for duel in duels]
        for duel, fake in zip(duels, fakes, strict=True):
            judge = self.turns.ahead(duel, self.loss)
            real = judge(duel.real) if self.loss.relativistic else None
            losses[f"G{duel.name}"] = self.loss.generator(*self.turns.best(judge(fake), real))
        losses = merged(losses, self.game.auxiliary_losses(batch, duels))
        total = {"total/G": torch.stack([*losses.values()]).sum()} if len(losses) > 1 else {}
        return Numbers(losses, total)

    def augmentations(self) -> tuple[Adapt, ...]:
        """Functions that tell adaptive augmentations how often D is right about real images."""

        def adapt(augment: Chain, name: str, means: dict[str, Tensor]) -> None:
            augment.adapt(means[f"accuracy/real{name}"], self.batch_size)

        return tuple(partial(adapt, chain, name) for name, chain in self.game.chains.items() if chain.adaptive)

    def readings(self) -> dict[str, float]:
        """The values of adaptive augmentations, such as ADA's p, and of scheduled numbers, by name."""
        adaptive = {
            f"{what}{name}": value.item()
            for name, chain in self.game.chains.items()
            for what, value in chain.statistics().items()
        }
        return adaptive | {
            key.replace(".", "/"): value for key, value in self.scheduled.items() if not key.endswith(".lr")
        }

    def judgement(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """The mean logits of real and fake images (N,) each. If the loss has a boundary, D's accuracies, too."""
        numbers = {"logits/real": real.mean(), "logits/fake": fake.mean()}
        if self.loss.boundary is not None:
            right = (real > self.loss.boundary).float().mean(), (fake < self.loss.boundary).float().mean()
            numbers |= dict(zip(ACCURACIES, right, strict=True))
        return numbers

    def not_finite(self) -> list[str]:
        """The names of losses that are not finite or, if there are none, of one such weight. [] if all are finite."""
        averages = {
            f"loss_ema/{name}" for name in self.stats.averages
        }  # they repeat losses that are checked themselves
        bad = [name for name, x in self.stats.means().items() if not math.isfinite(x) and name not in averages]
        if not bad:
            weights = dict(self.game.named_parameters())
            finite = torch.stack([torch.isfinite(p).all() for p in weights.values()]).tolist()
            bad = [name for name, ok in zip(weights, finite, strict=True) if not ok][:1]
        return bad

    def state_dict(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "steps": self.clock.steps,
            "images_seen": self.clock.images_seen,
            "game": self.game.state_dict(),
            "ema": self.ema.generators.state_dict(),
            "regularizers": self.regularizers.state_dict(),
            "stats": self.stats.state_dict(),
            "optimizers": {name: player.optimizer.state_dict() for name, player in self.players.items()},
            "scalers": {name: player.scaler.state_dict() for name, player in self.players.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state that `state_dict` gave. May raise any exception for another, and then has loaded a part."""
        self.executor.forget()
        if any(type(state[count]) is not int or state[count] < 0 for count in ("iteration", "steps", "images_seen")):
            raise ValueError("its counts of iterations, steps and images are no numbers")
        self.iteration = state["iteration"]
        self.clock.steps, self.clock.images_seen = state["steps"], state["images_seen"]
        self.game.load_state_dict(state["game"])
        self.ema.generators.load_state_dict(state["ema"])
        self.regularizers.load_state_dict(state["regularizers"])
        self.stats.load_state_dict(state["stats"], self.device)
        for name, player in self.players.items():
            settings = [{k: v for k, v in g.items() if k != "params"} for g in player.optimizer.param_groups]
            saved = state["optimizers"][name]
            groups = [{**then, **now} for then, now in zip(saved["param_groups"], settings, strict=True)]
            player.optimizer.load_state_dict({**saved, "param_groups": groups})  # saved moments, present settings
            check_moments(player.optimizer, name)
            if scale := state["scalers"][name]:  # {} if the run used no gradient scaler
                player.scaler.load_state_dict(scale)


def check_moments(optimizer: torch.optim.Optimizer, player: str) -> None:
    """Raise ValueError if a tensor that an optimizer keeps does not suit its parameter. PyTorch does not check that."""
    for parameter, kept in optimizer.state.items():
        for what, x in kept.items():
            if isinstance(x, Tensor) and torch.broadcast_shapes(x.shape, parameter.shape) != parameter.shape:
                raise ValueError(
                    f"the optimizer of {player} has {what} of shape {tuple(x.shape)} for weights of shape "
                    f"{tuple(parameter.shape)}"
                )


@contextmanager
def only_trainable(own: list[nn.Parameter], among: list[nn.Parameter]) -> Iterator[None]:
    """Compute gradients only for `own` parameters; the others of `among` get none.

    So D's turn builds no graph of G, and G's turn computes no gradients of D's weights.
    """
    for p in among:
        p.requires_grad_(False)
    for p in own:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in among:
            p.requires_grad_(True)
