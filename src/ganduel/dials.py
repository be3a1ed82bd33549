"""Dials: the numbers of a run that a schedule can move, by their keys in the configuration.

    optimizer.D.lr, and every other number of an optimizer; beta1 and beta2 are those of optimizer.D.betas
    regularizer.NAME.weight
    augment.NAME.KEY and data.augment.NAME.KEY, for the KEYs in `Transform.dials`
    turns.top
    ema.half_life, in kimg

The trainer sets all scheduled numbers before every iteration, from the clock. Numbers that phases read on the device
are tensors that are filled, so captured phases see every change.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ganduel.augment import Chain
from ganduel.clock import Clock
from ganduel.ema import EMA
from ganduel.game import Game
from ganduel.regularizers import Regularizer
from ganduel.schedules import Schedule
from ganduel.system.errors import UserError, suggest
from ganduel.turns import Turns

MOMENTS = 50  # at which `check` looks at a schedule


class Dial(NamedTuple):
    """A number that can be set."""

    value: float  # its own value
    set: Callable[[float], None]
    most: float = math.inf  # upper limit; the lower one is 0
    below: bool = False  # whether it must stay below the upper limit
    on_host: bool = False  # whether phases read it on the host, so that a captured phase would not see a change


class Moved(NamedTuple):
    """A dial and the schedule that moves it."""

    key: str
    dial: Dial
    schedule: Schedule


def moved(schedules: Mapping[str, Schedule], known: Mapping[str, Callable[[], Dial]]) -> list[Moved]:
    """The numbers that `schedules` move, by their keys. `known` are all `dials`. Raises UserError for any other key."""
    for key in schedules:
        if key not in known:
            raise UserError(f"schedule.{key} cannot be moved. " + suggest(key, list(known)))
    return [Moved(key, known[key](), schedule) for key, schedule in schedules.items()]


def check(all_moved: list[Moved], clock: Clock, iterations: int) -> None:
    """Raise UserError if a number leaves its limits within the next `iterations`."""
    for key, dial, schedule in all_moved:
        for moment in range(MOMENTS + 1):
            ahead = iterations * moment // MOMENTS
            then = replace(
                clock,
                steps=clock.steps + ahead * clock.steps_per_iteration,
                images_seen=clock.images_seen + ahead * clock.images_per_iteration,
            )
            value = schedule(then, dial.value)
            if not 0 <= value <= dial.most or (dial.below and value == dial.most):
                limits = "0 or more" if dial.most == math.inf else f"0 to {'less than ' * dial.below}{dial.most:g}"
                raise UserError(
                    f"schedule.{key}: it would be {value:.3g} after {then.images_seen / 1000:,.1f} kimg; {key} takes "
                    f"{limits}: set another value or schedule.{key}.end"
                )


def dials(
    optimizers: Mapping[str, torch.optim.Optimizer],
    penalties: Mapping[str, Regularizer],
    game: Game,
    of_data: Chain,
    turns: Turns,
    ema: EMA,
    device: torch.device,
) -> Iterator[tuple[str, Callable[[], Dial]]]:
    """Every dial by its key, as a function that prepares it. `of_data` is the augmentation of real images alone."""
    for player, optimizer in optimizers.items():
        (group,) = optimizer.param_groups
        lazy = next((name for name, r in penalties.items() if r.player == player and r.every > 1), None)
        for key, value in group.items():
            if key == "betas":
                yield from ((f"optimizer.{player}.beta{i + 1}", _beta(optimizer, i, lazy)) for i in range(2))
            elif isinstance(value, int | float | Tensor) and not isinstance(value, bool):
                yield f"optimizer.{player}.{key}", _setting(optimizer, key)
    for name, penalty in penalties.items():
        yield f"regularizer.{name}.weight", _weight(penalty, device)
    for place, chains in (("augment", [*game.chains.values()]), ("data.augment", [of_data])):
        for i, name in enumerate(chains[0].names if chains else ()):
            for key, most in getattr(chains[0].transforms[i], "dials", {}).items():
                yield f"{place}.{name}.{key}", _strength([getattr(chain.transforms[i], key) for chain in chains], most)
    yield "turns.top", lambda: Dial(turns.top, lambda top: setattr(turns, "top", top), most=1.0, on_host=True)
    yield "ema.half_life", lambda: Dial(ema.half_life / 1000, lambda kimg: setattr(ema, "half_life", 1000 * kimg))


def assign(group: dict[str, Any], key: str, value: float) -> None:
    """Set a number of an optimizer. One on the device changes in place, because CUDA graphs read its memory."""
    if isinstance(group[key], Tensor):
        group[key].fill_(value)
    else:
        group[key] = value


def _setting(optimizer: torch.optim.Optimizer, key: str) -> Callable[[], Dial]:
    def set_number(value: float) -> None:
        assign(optimizer.param_groups[0], key, value)  # to load a state replaces the group

    return lambda: Dial(float(optimizer.param_groups[0][key]), set_number, on_host=key != "lr")


def _beta(optimizer: torch.optim.Optimizer, i: int, lazy: str | None) -> Callable[[], Dial]:
    def betas() -> tuple[float, ...]:
        return tuple(optimizer.param_groups[0]["betas"])

    def set_beta(value: float) -> None:
        optimizer.param_groups[0]["betas"] = (*betas()[:i], value, *betas()[i + 1 :])

    def refuse() -> NoReturn:
        raise UserError(
            f"schedule: beta{i + 1} cannot be moved, because lazy regularization corrects it; set "
            f"regularizer.{lazy}.every=1"
        )

    return refuse if lazy else lambda: Dial(betas()[i], set_beta, most=1.0, below=True, on_host=True)


def _weight(regularizer: Regularizer, device: torch.device) -> Callable[[], Dial]:
    def make() -> Dial:
        value = float(regularizer.weight)
        regularizer.weight = tensor = torch.tensor(value, device=device)
        return Dial(value, lambda weight: _fill([tensor], weight))

    return make


def _strength(tensors: list[Tensor], most: float) -> Callable[[], Dial]:
    return lambda: Dial(float(tensors[0]), lambda value: _fill(tensors, value), most)


def _fill(tensors: list[Tensor], value: float) -> None:
    for tensor in tensors:
        tensor.fill_(value)
