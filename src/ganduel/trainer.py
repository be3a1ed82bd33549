"""The loop. `Trainer.step` is one iteration of any game, `Trainer.run` one optimizer step of any phase.

Only this module calls backward, step, zero_grad, autocast and the averaging over processes, so gradient accumulation,
mixed precision, EMA and many processes work for every model.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganduel import randomness
from ganduel.augment import Chain
from ganduel.data.loading import ImageSet, Pair
from ganduel.ema import EMA, decay
from ganduel.game import Batch, Duel, Game
from ganduel.losses import AdversarialLoss
from ganduel.pace import Clock, Gate, Pace, Turn
from ganduel.regularizers import Projection, Regularizer, still
from ganduel.schedules import Schedule
from ganduel.stats import Stats, merged
from ganduel.system import distributed
from ganduel.system.device import as_it_lies
from ganduel.system.errors import UserError

ACCURACIES = "accuracy/real", "accuracy/fake"


class Numbers(NamedTuple):
    """Scalars of one micro batch, by name: what is minimised, and what is only reported."""

    losses: dict[str, Tensor]  # a phase minimises their sum
    statistics: dict[str, Tensor]
    verdict: Tensor | None = None  # for a gate: D's adversarial loss and its accuracy, means over its duels, (2,)


class Term(NamedTuple):
    """A part of what a phase minimises."""

    fn: Callable[[Batch, list[Duel]], Numbers]
    mixed: bool  # may run in mixed precision; penalties may not


Adapt = Callable[[dict[str, Tensor]], None]
"""Told a step's statistics, means over all micro batches and processes, on the device."""


class Phase(NamedTuple):
    """One optimizer step: the main loss, or one lazy regularizer, in every `every`-th turn and times `every`."""

    terms: list[Term]
    every: int = 1
    gate: Gate | None = None  # may refuse the step, and with it the turn's later phases
    adapts: tuple[Adapt, ...] = ()  # what follows its statistics


@dataclass
class Player:
    """D or G: its networks, its optimizer, its phases."""

    networks: nn.ModuleDict
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    phases: list[Phase]  # the main one first
    projections: list[Projection]
    turns: int  # in one iteration
    scaler: torch.amp.GradScaler  # does nothing unless the precision is fp16

    def __post_init__(self) -> None:
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.views = [view for group in self.optimizer.param_groups for view in group["params"]]

    def set_rate(self, clock: Clock) -> None:
        """Follow the schedule."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            assign_rate(group, self.schedule(clock, rate))

    def step(self) -> None:
        """Move along the gradients that lie in the parameters."""
        for parameter, view in zip(self.networks.parameters(), self.views, strict=True):
            view.grad = None if parameter.grad is None else as_it_lies(parameter.grad, parameter)
        self.scaler.step(self.optimizer)  # divides by its scale first
        self.scaler.update()
        self.optimizer.zero_grad()  # the views'; the parameters' go before the next phase
        with torch.no_grad():
            for projection in self.projections:
                projection.fn(list(self.networks.parameters()))


class Move(NamedTuple):
    """One phase, played on one batch."""

    phase: Phase
    player: Player
    batch: Batch
    keep: bool = False  # the fakes keep their graph, for a turn of G
    new: bool = False  # the fakes were never made before: batch normalisation in G learns from them
    dropout: int | None = None  # a seed for PyTorch's generator, the same where the same fakes are made again


class Trainer:
    """Trains one game. All that changes is in `state_dict()`; all else is a function of the seed, the iteration and the
    clock."""

    def __init__(
        self,
        game: Game,
        loss: AdversarialLoss,
        regularizers: dict[str, Regularizer | Projection],
        pace: Pace,
        clock: Clock,
        images: ImageSet | Pair,
        ema: EMA,
        optimizers: dict[str, torch.optim.Optimizer],
        schedule: Schedule,
        *,
        seed: int,
        batch_size: int,
        micro_batch: int,
        loss_ema: float,
        dtype: torch.dtype,
        device: torch.device,
    ):
        """`batch_size` counts all processes, `micro_batch` is what one of them holds in memory at once; `loss_ema` is
        the half-life of the averaged losses, as a share of the images seen."""
        self.game, self.loss, self.pace, self.clock, self.images, self.ema = game, loss, pace, clock, images, ema
        self.seed, self.batch_size, self.micro_batch = seed, batch_size, micro_batch
        self.loss_ema, self.dtype, self.device = loss_ema, dtype, device
        self.images_per_iteration = clock.images_per_iteration
        self.iteration = 0
        self.warm_up = 1  # iterations until its pace is what it will be
        self.stats = Stats()
        main = {
            "D": Phase([Term(self.discriminator_loss, mixed=True)], gate=pace.gate, adapts=self.augmentations()),
            "G": Phase([Term(self.generator_loss, mixed=True)]),
        }
        penalties = {n: r for n, r in regularizers.items() if isinstance(r, Regularizer)}
        check_names(game, penalties)
        projections = [r for r in regularizers.values() if isinstance(r, Projection)]
        self.players = {
            name: Player(
                networks,
                optimizers[name],
                schedule,
                phases(main[name], {n: r for n, r in penalties.items() if r.player == name}),
                [r for r in projections if r.player == name],
                pace.count(name),
                torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
            )
            for name, networks in (("D", game.discriminators), ("G", game.generators))
        }
        modules = {name: r.fn for name, r in penalties.items() if isinstance(r.fn, nn.Module)}
        self.regularizers = nn.ModuleDict(modules).to(device)  # those with a state

    @property
    def images_seen(self) -> int:
        return self.clock.images_seen

    def step(self) -> None:
        """One iteration: everyone's turns, then the averages."""
        for chain in (*self.game.chains.values(), self.images.augment):
            chain.at(self.clock)
        fakes: Batch = {}
        for turn in self.pace.turns:
            fakes = self.take_turn(turn, fakes)
        with torch.no_grad():
            stream = (self.seed, "settle", self.iteration)
            self.game.after_iteration(randomness.seeds(*stream, first=0, count=self.batch_size, device=self.device))
        self.iteration += 1
        self.clock.tick()
        self.ema.update(self.images_per_iteration, self.images_seen)

    def take_turn(self, turn: Turn, fakes: Batch) -> Batch:
        """All phases of a turn that are due. Returns the fakes that the next turn meets instead of making them: none,
        but where players share them."""
        player, batch = self.players[turn.player], self.draw(turn, fakes)
        player.set_rate(self.clock)
        nth = self.iteration * player.turns + turn.nth
        main, *lazy = player.phases
        # D leaves its fakes with their graph, but not those of several micro batches: G makes the same again.
        keep = turn.leaves and turn.player == "D" and len(batch["seed"]) <= self.micro_batch
        made = turn.like or (turn.player, turn.nth)  # in which turn these fakes were made first
        dropout = randomness.key(self.seed, "dropout", self.iteration, distributed.rank(), *made)
        move = Move(main, player, batch, keep, new=turn.like is None, dropout=dropout)
        met = self.run(move)
        for phase in lazy:
            if met and nth % phase.every == 0:
                self.run(Move(phase, player, batch, dropout=dropout))
        return fakes_of(met) if turn.leaves and (keep or turn.player == "G") else {}

    def draw(self, turn: Turn, fakes: Batch | None = None) -> Batch:
        """This process's share of the turn's global batch: every so many-th image, as for micro batches. With it go
        the `fakes` that the turn before left: to D what the game makes of them, to G with their graph."""
        world, rank = distributed.world(), distributed.rank()
        share = self.batch_size // world
        position = self.images_seen + turn.reals * self.batch_size + rank
        stream = (self.seed, "turn", self.iteration, *(turn.like or (turn.player, turn.nth)))
        seed = randomness.seeds(*stream, first=rank, count=share, stride=world, device=self.device)
        shared = fakes or {}
        if shared and turn.player == "D":
            shared = self.game.from_pool({name: images.detach() for name, images in shared.items()}, seed)
        return {
            **self.images.batch(position, share, stride=world),
            **{f"fake{name}": images for name, images in shared.items()},
            "seed": seed,
        }

    def run(self, move: Move) -> list[list[Duel]]:
        """One optimizer step of a phase, with all that follows from it. Returns the duels of each micro batch; none if
        the gate was closed."""
        met, stats = self.advance(move)
        images = move.phase.every * self.images_per_iteration / move.player.turns  # before this phase is due again
        half_life = self.loss_ema * (self.images_seen + self.images_per_iteration)
        self.stats.merge(stats, kept=decay(images, half_life))
        if move.phase.adapts:
            stats.pool()
            means = {name: pair[0] / pair[1] for name, pair in stats.statistics.items()}
            for adapt in move.phase.adapts:
                adapt(means)
        return met

    def advance(self, move: Move) -> tuple[list[list[Duel]], Stats]:
        """The step itself, over the micro batches of a batch. But for the learning rate it knows no time."""
        phase, player = move.phase, move.player
        player.networks.zero_grad(set_to_none=True)
        parts, met, verdicts, stats = split(move.batch, self.micro_batch), [], [], Stats()
        trainable = only_trainable(self.game if move.keep else player.networks, among=self.game)
        with trainable, nullcontext() if move.new else still(self.game.generators):
            for i, part in enumerate(parts):
                if move.dropout is not None:
                    self.reseed(move.dropout, i)
                duels = self.game.duels(part)
                met.append(duels)
                numbers = []
                for term in phase.terms:
                    with self.autocast(term.mixed):
                        numbers.append(term.fn(part, duels))
                losses = merged(*(each.losses for each in numbers))
                total = torch.stack([*losses.values()]).sum()
                player.scaler.scale(total * (phase.every / len(parts))).backward()
                # The gradient scale leaves out a step that is not finite, and so do its statistics.
                stats.add(
                    losses, merged(*(each.statistics for each in numbers)), finite_only=player.scaler.is_enabled()
                )
                verdicts += [each.verdict for each in numbers if each.verdict is not None]
        distributed.average_gradients(player.networks.parameters())
        closed = phase.gate is not None and self.ask(phase.gate, torch.stack(verdicts).mean(0), stats)
        if not closed:
            player.step()
        return [] if closed else met, stats

    def reseed(self, seed: int, part: int) -> None:
        """Seed PyTorch's generator, which dropout alone uses, for one micro batch."""
        torch.manual_seed(randomness.key(seed, part))

    def ask(self, gate: Gate, verdict: Tensor, stats: Stats) -> bool:
        """Whether a gate is closed, for all processes alike. The one decision that waits for the device."""
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
        fakes = [duel.fake.detach() for duel in duels]  # all of them first, as in G's turn: so dropout is the same
        for duel, made in zip(duels, fakes, strict=True):
            real, fake = duel.critic.both(duel.real, made)
            # Like dropout, what disturbs labels is for training alone.
            seed = duel.seed if self.game.discriminators.training else None
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
            real = duel.critic(duel.real) if self.loss.relativistic else None
            losses[f"G{duel.name}"] = self.loss.generator(duel.critic(fake), real)
        losses = merged(losses, self.game.auxiliary_losses(batch, duels))
        total = {"total/G": torch.stack([*losses.values()]).sum()} if len(losses) > 1 else {}
        return Numbers(losses, total)

    def augmentations(self) -> tuple[Adapt, ...]:
        """How each discriminator's augmentation learns what D made of the reals, where it asks."""

        def adapt(augment: Chain, name: str, means: dict[str, Tensor]) -> None:
            augment.adapt(means[f"accuracy/real{name}"], self.batch_size)

        return tuple(partial(adapt, chain, name) for name, chain in self.game.chains.items() if chain.adaptive)

    def readings(self) -> dict[str, float]:
        """What has adapted, as it stands."""
        return {
            f"{what}{name}": value.item()
            for name, chain in self.game.chains.items()
            for what, value in chain.statistics().items()
        }

    def judgement(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """What D thinks: its mean logits, and where the loss has a boundary the share that it gets right."""
        numbers = {"logits/real": real.mean(), "logits/fake": fake.mean()}
        if self.loss.boundary is not None:
            right = (real > self.loss.boundary).float().mean(), (fake < self.loss.boundary).float().mean()
            numbers |= dict(zip(ACCURACIES, right, strict=True))
        return numbers

    def validate(self, most: int | None = None) -> dict[str, float]:
        """Both losses, D's logits and its accuracy: means over the held-out images, or the first `most` in their order,
        and as many new fakes. Changes nothing. {} without a validation split."""
        count = self.images.held_out if most is None else min(most, self.images.held_out)
        group = max(1, *(getattr(d, "group_size", 1) for d in self.game.discriminators.values()))
        rank, world = distributed.rank(), distributed.world()
        stats = Stats()
        buffers = [(b, b.clone()) for b in self.game.buffers()]
        # D without dropout; G as in training, for a fast learner's running statistics lag behind its weights.
        self.game.discriminators.eval()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), torch.no_grad():
            self.reseed(randomness.key(self.seed, "validation", self.iteration), rank)  # G's dropout
            for numbers in portions(count, self.batch_size, self.micro_batch, group):
                shared = len(numbers) == self.batch_size  # what is less than a batch, all processes look at
                own = numbers[rank::world] if shared else numbers
                stream = (self.seed, "validation", self.iteration)
                where = {"first": own.start, "count": len(own), "stride": own.step}
                seed = randomness.seeds(*stream, **where, device=self.device)
                batch = {**self.images.validation_batch(own.start, len(own), own.step), "seed": seed}
                for part in split(batch, self.micro_batch):
                    weight = len(part["seed"]) / (1 if shared else world)
                    with self.autocast(True):
                        duels = self.game.duels(part)
                        for found in (self.discriminator_loss(part, duels), self.generator_loss(part, duels)):
                            stats.add(found.losses, found.statistics, weight=weight)
            for buffer, before in buffers:
                buffer.copy_(before)
        self.game.discriminators.train()
        return {f"validation/{name}": value for name, value in stats.means().items()}

    def not_finite(self) -> list[str]:
        """Names of the losses, or else of the first weights, that are no longer finite; [] while all is well."""
        averages = {f"loss_ema/{name}" for name in self.stats.averages}  # of losses that are named themselves
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
            player.optimizer.load_state_dict({**saved, "param_groups": groups})  # the moments of then
            if scale := state["scalers"][name]:  # {} of a run that needed none
                player.scaler.load_state_dict(scale)


def assign_rate(group: dict[str, Any], rate: float) -> None:
    """Give an optimizer's parameters a learning rate; in place where it lies on the device, for graphs that read it."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def check_names(game: Game, penalties: dict[str, Regularizer]) -> None:
    """Raise UserError for a penalty whose loss would have the name of another."""
    taken = [f"{player}{duel}" for duel in game.duel_names for player in ("D", "G")] + [*game.auxiliary_names]
    for name in penalties:
        for loss in (f"{name}{duel}" for duel in game.duel_names):
            if loss in taken:
                raise UserError(
                    f"regularizer.{name}: another loss is called {loss} already (taken: {', '.join(taken)}); give the "
                    "penalty another name"
                )
            taken.append(loss)


def phases(main: Phase, regularizers: dict[str, Regularizer]) -> list[Phase]:
    """A player's main phase, joined by what is due in every turn, and one phase for each lazy regularizer.

    A gate asks about the main phase; where it is closed, the lazy ones that were due are left out too.
    """
    own = {name: _penalty(name, r) for name, r in regularizers.items()}
    joined = [own[name] for name, r in regularizers.items() if r.every == 1]
    main = main._replace(
        terms=[*main.terms, *(term for phase in joined for term in phase.terms)],
        adapts=(*main.adapts, *(adapt for phase in joined for adapt in phase.adapts)),
    )
    return [main, *(own[name] for name, r in regularizers.items() if r.every > 1)]


def _penalty(name: str, regularizer: Regularizer) -> Phase:
    logged: dict[str, dict[str, str]] = {}  # a statistic's own name -> by duel, its name in the logs

    def fn(batch: Batch, duels: list[Duel]) -> Numbers:
        losses, statistics = {}, {}
        for duel in duels:
            penalty = regularizer.fn(duel)
            value, found = penalty if isinstance(penalty, tuple) else (penalty, {})
            losses[f"{name}{duel.name}"] = regularizer.weight * value
            for what, number in found.items():
                key = logged.setdefault(what, {}).setdefault(duel.name, f"regularizer/{name}/{what}{duel.name}")
                statistics[key] = number
        return Numbers(losses, statistics)

    def adapt(means: dict[str, Tensor]) -> None:
        own = {what: torch.stack([means[key] for key in keys.values()]).mean() for what, keys in logged.items()}
        regularizer.fn.adapt(own)  # type: ignore[attr-defined]

    return Phase(
        [Term(fn, mixed=False)], regularizer.every, adapts=(adapt,) if hasattr(regularizer.fn, "adapt") else ()
    )


def split(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into micro batches of `size` images: of k, each takes every k-th image.

    So groups of images as far apart as possible (`minibatch_deviation`) lie within one, as in the whole batch.
    """
    k = max(1, len(batch["seed"]) // size)  # fewer images, the last in validation, are one part
    return [{name: t[i::k] for name, t in batch.items()} for i in range(k)]


def portions(images: int, batch: int, micro: int, group: int) -> list[range]:
    """The numbers of so many images, to be looked at as in training: in whole batches, and then what is left of them.

    Of the rest, a D that compares images in groups (of `group`, else 1) sees whole micro batches, then whole groups;
    up to group - 1 images are left out. One image alone is left out, too, unless batches are of one: batch
    normalisation has nothing to normalise it by.
    """
    full = batch if group == 1 else micro
    cuts = sorted({*range(0, images + 1, batch), images - images % full, images - images % group})
    return [range(*ends) for ends in pairwise(cuts) if ends[1] - ends[0] > 1 or batch == 1]


def fakes_of(met: list[list[Duel]]) -> Batch:
    """The fakes of all micro batches, in the order of the whole batch, by the names of their duels."""
    return {duels[0].name: _whole([duel.fake.float() for duel in duels]) for duels in zip(*met, strict=True)}


def _whole(parts: list[Tensor]) -> Tensor:
    """The inverse of `split`."""
    return torch.stack(parts, dim=1).flatten(0, 1) if len(parts) > 1 else parts[0]


@contextmanager
def only_trainable(networks: nn.Module, among: nn.Module) -> Iterator[None]:
    """Let gradients flow into `networks` alone, so that D's turn builds no graph of G, nor G's gradients of D's
    weights."""
    parameters = [p for p in among.parameters() if p.requires_grad]
    own = {id(p) for p in networks.parameters()}
    for p in parameters:
        p.requires_grad_(id(p) in own)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
