"""The phases of a player. A phase is one optimizer step, and minimises the sum of its terms.

The main phase minimises the main loss and the penalties of every turn. Each lazy penalty has its own phase. This module
only builds phases; the trainer runs them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ganduel.game import Batch, Duel, Game
from ganduel.regularizers import Regularizer
from ganduel.system.errors import UserError
from ganduel.turns import Gate


class Numbers(NamedTuple):
    """Scalars of one micro batch, by name: losses to minimise, and statistics to report."""

    losses: dict[str, Tensor]  # a phase minimises their sum
    statistics: dict[str, Tensor]
    verdict: Tensor | None = None  # for a gate: D's adversarial loss and its accuracy, means over its duels, (2,)


class Term(NamedTuple):
    """A function that gives some of the losses of a phase."""

    fn: Callable[[Batch, list[Duel]], Numbers]
    mixed: bool  # may run in mixed precision; penalties may not


Adapt = Callable[[dict[str, Tensor]], None]
"""Gets the statistics of a step: means over all micro batches and processes, on the device."""


class Phase(NamedTuple):
    """One optimizer step: the main loss or one lazy regularizer. It runs in every `every`-th turn, times `every`."""

    terms: list[Term]
    every: int = 1
    gate: Gate | None = None  # if it is closed, this step and the later phases of the turn are skipped
    adapts: tuple[Adapt, ...] = ()  # functions that get the statistics of the step


def check_names(game: Game, penalties: dict[str, Regularizer]) -> None:
    """Raise UserError if the loss of a penalty would have the same name as another loss."""
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
    """A player's phases: the main phase with the penalties of every turn, and one phase for each lazy regularizer."""
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
