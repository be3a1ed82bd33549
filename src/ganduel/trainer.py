"""The loop. `Trainer.step` is one iteration of any game, `Trainer.run` one optimizer step of any phase.

Only this module calls backward, step, zero_grad, autocast and the averaging over processes, so gradient accumulation,
mixed precision, EMA and many processes work for every model.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganduel import distributed, randomness
from ganduel.augment import Chain
from ganduel.data.loading import ImageSet, Pair
from ganduel.device import as_it_lies
from ganduel.ema import EMA, decay
from ganduel.game import Batch, Duel, Game
from ganduel.losses import AdversarialLoss
from ganduel.pace import Clock, Gate, Pace, Turn
from ganduel.regularizers import Projection, Regularizer
from ganduel.schedules import Schedule
from ganduel.stats import Stats


class Term(NamedTuple):
    """Named scalars of one micro batch: "loss/..." are minimised, others are statistics."""

    fn: Callable[[Batch, list[Duel]], dict[str, Tensor]]
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
        torch.manual_seed(randomness.key(self.seed, "step", self.iteration, distributed.rank()))  # dropout
        for chain in (*self.game.chains.values(), self.images.augment):
            chain.at(self.clock)
        fakes: Batch = {}
        for turn in self.pace.turns:
            fakes = self.take_turn(turn, fakes)
        with torch.no_grad():
            stream = (self.seed, "settle", self.iteration)
            self.game.settle(randomness.seeds(*stream, first=0, count=self.batch_size, device=self.device))
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
        met = self.run(main, player, batch, keep)
        for phase in lazy:
            if met and nth % phase.every == 0:
                self.run(phase, player, batch)
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
            shared = self.game.replay({name: images.detach() for name, images in shared.items()}, seed)
        return {
            **self.images.batch(position, share, stride=world),
            **{f"fake{name}": images for name, images in shared.items()},
            "seed": seed,
        }

    def run(self, phase: Phase, player: Player, batch: Batch, keep: bool = False) -> list[list[Duel]]:
        """One optimizer step of a phase, with all that follows from it. Returns the duels of each micro batch; none if
        the gate was closed. Their fakes `keep` their graph for a turn of G, if told so."""
        met, stats = self.advance(phase, player, batch, keep)
        self.stats.merge(stats.sums)
        images = phase.every * self.images_per_iteration / player.turns  # seen before this phase is due again
        half_life = self.loss_ema * (self.images_seen + self.images_per_iteration)
        self.stats.average(stats.sums, kept=decay(images, half_life))
        if phase.adapts:
            means = stats.tensors()
            for adapt in phase.adapts:
                adapt(means)
        return met

    def advance(self, phase: Phase, player: Player, batch: Batch, keep: bool) -> tuple[list[list[Duel]], Stats]:
        """The step itself, over the micro batches of a batch. But for the learning rate it knows no time."""
        player.networks.zero_grad(set_to_none=True)
        parts, met, stats = split(batch, self.micro_batch), [], Stats()
        with only_trainable(self.game if keep else player.networks, among=self.game):
            for part in parts:
                duels = self.game.duels(part)
                met.append(duels)
                numbers: dict[str, Tensor] = {}
                for term in phase.terms:
                    with self.autocast(term.mixed):
                        numbers |= term.fn(part, duels)
                total = torch.stack([x for name, x in numbers.items() if name.startswith("loss/")]).sum()
                player.scaler.scale(total * (phase.every / len(parts))).backward()
                stats.add(numbers)
        distributed.average_gradients(player.networks.parameters())
        closed = phase.gate is not None and self.ask(phase.gate, stats)
        if not closed:
            player.step()
        return [] if closed else met, stats

    def ask(self, gate: Gate, stats: Stats) -> bool:
        """Whether a gate is closed, for all processes alike. The one decision that waits for the device."""
        closed = gate.closed(stats.means())
        stats.add({"gate/closed": torch.tensor(float(closed), device=self.device)})
        return closed

    def autocast(self, mixed: bool) -> torch.autocast:
        mixed = mixed and self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed)

    def discriminator_loss(self, batch: Batch, duels: list[Duel]) -> dict[str, Tensor]:
        numbers = {}
        for duel in duels:
            real, fake = duel.critic.both(duel.real, duel.fake.detach())
            # Like dropout, what disturbs labels is for training alone.
            seed = duel.seed if self.game.discriminators.training else None
            numbers[f"loss/D{duel.name}"] = self.loss.discriminator(real, fake, seed)
            numbers |= self.judgement(duel.name, real, fake)
        return numbers

    def generator_loss(self, batch: Batch, duels: list[Duel]) -> dict[str, Tensor]:
        losses = {}
        for duel in duels:
            real = duel.critic(duel.real) if self.loss.relativistic else None
            losses[f"loss/G{duel.name}"] = self.loss.generator(duel.critic(duel.fake), real)
        losses |= {f"loss/{name}": value for name, value in self.game.extras(batch, duels).items()}
        return losses | ({"total/G": torch.stack([*losses.values()]).sum()} if len(losses) > 1 else {})

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

    def judgement(self, name: str, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """What D thinks: its mean logits, and where the loss has a boundary the share that it gets right."""
        numbers = {f"logits/real{name}": real.mean(), f"logits/fake{name}": fake.mean()}
        if self.loss.boundary is not None:
            right = (real > self.loss.boundary).float().mean(), (fake < self.loss.boundary).float().mean()
            numbers |= {f"accuracy/real{name}": right[0], f"accuracy/fake{name}": right[1]}
        return numbers

    def validate(self) -> dict[str, float]:
        """Both losses, D's logits and accuracy on held-out reals and new fakes; changes nothing. {} without a
        validation split."""
        count = min(self.batch_size, self.images.held_out)
        count -= count % self.micro_batch if count > self.micro_batch else 0
        if count < 2:  # BatchNorm has nothing to normalise one image by
            return {}
        seed = randomness.seeds(self.seed, "validation", self.iteration, first=0, count=count, device=self.device)
        batch = {**self.images.validation_batch(self.images_seen, count), "seed": seed}
        stats = Stats()
        buffers = [(b, b.clone()) for b in self.game.buffers()]
        # D without dropout; G as in training, for a fast learner's running statistics lag behind its weights.
        self.game.discriminators.eval()
        with torch.no_grad(), self.autocast(True):
            for part in split(batch, self.micro_batch):
                duels = self.game.duels(part)
                stats.add(self.discriminator_loss(part, duels) | self.generator_loss(part, duels))
            for buffer, before in buffers:
                buffer.copy_(before)
        self.game.discriminators.train()
        return {f"validation/{name}": value for name, value in stats.means().items()}

    def not_finite(self) -> list[str]:
        """Names of the losses, or else of the first weights, that are no longer finite; [] while all is well."""
        means = {name: value for name, value in self.stats.means().items() if not name.startswith("loss_ema/")}
        bad = [name for name, value in means.items() if not math.isfinite(value)]
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
            "stats": self.stats.sums,
            "optimizers": {name: player.optimizer.state_dict() for name, player in self.players.items()},
            "scalers": {name: player.scaler.state_dict() for name, player in self.players.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration = state["iteration"]
        self.clock.steps, self.clock.images_seen = state["steps"], state["images_seen"]
        self.game.load_state_dict(state["game"])
        self.ema.generators.load_state_dict(state["ema"])
        self.regularizers.load_state_dict(state["regularizers"])
        self.stats.sums = {name: pair.to(self.device) for name, pair in state["stats"].items()}
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
    def fn(batch: Batch, duels: list[Duel]) -> dict[str, Tensor]:
        numbers = {}
        for duel in duels:
            penalty = regularizer.fn(duel)
            value, statistics = penalty if isinstance(penalty, tuple) else (penalty, {})
            numbers[f"loss/{name}{duel.name}"] = regularizer.weight * value
            numbers |= {f"{what}{duel.name}": number for what, number in statistics.items()}
        return numbers

    adapts: tuple[Any, ...] = (regularizer.fn.adapt,) if isinstance(regularizer.fn, nn.Module) else ()
    return Phase([Term(fn, mixed=False)], regularizer.every, adapts=adapts)


def split(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into micro batches of `size` images: of k, each takes every k-th image.

    So groups of images as far apart as possible (`minibatch_deviation`) lie within one, as in the whole batch.
    """
    k = max(1, len(batch["seed"]) // size)  # fewer images, as validation may have, are one part
    return [{name: t[i::k] for name, t in batch.items()} for i in range(k)]


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
