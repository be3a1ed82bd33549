"""Whose turn it is, when D has to wait, and how time is counted.

Time is counted twice, in turns of G (steps) and in real images that the discriminators have seen. One iteration is one
round of turns. All that changes with time is a function of these two numbers, which only ever grow.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ganduel.system.errors import UserError


class Turn(NamedTuple):
    """One player's move within an iteration."""

    player: str
    nth: int  # how many turns this player had before, in this iteration
    reals: int  # which of the iteration's batches of real images it meets


class Gate(NamedTuple):
    """When D is too strong to move on: its loss is below the floor, or its accuracy above the ceiling; None is never.

    A turn behind a closed gate is played and counted, but D stays as it is. So the gate opens once G has caught up.
    """

    loss_floor: float | None
    accuracy_ceiling: float | None

    def closed(self, loss: float, accuracy: float) -> bool:
        """Decide from D's adversarial loss and accuracy on one whole batch; NaN is on neither side of a limit."""
        return (self.loss_floor is not None and loss < self.loss_floor) or (
            self.accuracy_ceiling is not None and accuracy > self.accuracy_ceiling
        )


class Pace:
    """`n_critic` turns of D and `n_generator` of G an iteration; `first` moves first.

    Every turn of D sees a new batch of real images; G's turns meet the one that D saw last (or, moving first, will see
    next). With a `loss_floor` or an `accuracy_ceiling`, D moves only through an open `Gate`. With `share`, the first
    turn of the player who moves second meets the fakes of the turn before it (see `sharing`).
    """

    def __init__(
        self,
        n_critic: int,
        n_generator: int,
        first: Literal["D", "G"],
        loss_floor: float | None,
        accuracy_ceiling: float | None,
        share: bool,
    ):
        if n_critic < 1 or n_generator < 1:
            raise ValueError(f"n_critic={n_critic} and n_generator={n_generator} must be at least 1")
        if accuracy_ceiling is not None and not 0 < accuracy_ceiling < 1:
            raise ValueError(f"accuracy_ceiling={accuracy_ceiling} must be a share between 0 and 1, or null")
        if share and first == "G" and (n_critic, n_generator) != (1, 1):
            raise ValueError("share=true with G first is for one turn each: set n_critic=1 and n_generator=1")
        gated = loss_floor is not None or accuracy_ceiling is not None
        self.gate = Gate(loss_floor, accuracy_ceiling) if gated else None
        self.n_critic, self.n_generator, self.share = n_critic, n_generator, share
        critic = [Turn("D", i, i) for i in range(n_critic)]
        generator = [Turn("G", i, n_critic - 1 if first == "D" else 0) for i in range(n_generator)]
        self.turns = critic + generator if first == "D" else generator + critic

    def count(self, player: str) -> int:
        """Turns of this player in one iteration."""
        return self.n_critic if player == "D" else self.n_generator


@dataclass
class Clock:
    """What time it is in a run, and how long durations are.

    A run that goes on with another batch or pace has iterations of another size from then on, but keeps what it has
    counted. So a duration in steps is measured by the steps, one in kimg or epochs by the images seen.
    """

    images_per_iteration: int
    steps_per_iteration: int  # a step is one turn of G
    images_per_epoch: int
    steps: int = 0  # so far
    images_seen: int = 0  # so far

    def tick(self) -> None:
        """One iteration is over."""
        self.steps += self.steps_per_iteration
        self.images_seen += self.images_per_iteration

    def passed(self, duration: "Duration") -> float:
        """How often a duration fits into the time since the run began: 0.5 is half of it, 2 is twice as long."""
        whole, so_far, _ = self._measured(duration)
        return so_far / whole

    def left(self, duration: "Duration") -> int:
        """The least number of iterations until the run has lasted this long; negative once it has been over for one or
        more."""
        whole, so_far, each = self._measured(duration)
        return math.ceil((whole - so_far) / each - 1e-9)

    def iterations(self, duration: "Duration") -> int:
        """The least number of iterations of today's size that last this long, 1 or more."""
        whole, _, each = self._measured(duration)
        return max(1, math.ceil(whole / each - 1e-9))

    def images(self, duration: "Duration") -> float:
        """The number of images seen in this time, in iterations of today's size."""
        whole, _, each = self._measured(duration)
        return whole * self.images_per_iteration / each

    def _measured(self, duration: "Duration") -> tuple[float, int, int]:
        """A duration in the unit that it is measured by, how much of that there has been, and how much of it an
        iteration takes."""
        if duration.unit == "steps":
            return duration.amount, self.steps, self.steps_per_iteration
        images = 1000 if duration.unit == "kimg" else self.images_per_epoch
        return duration.amount * images, self.images_seen, self.images_per_iteration

    def describe(self, ahead: int = 0) -> str:
        """The time after so many more iterations, in all units."""
        steps = self.steps + ahead * self.steps_per_iteration
        images = self.images_seen + ahead * self.images_per_iteration
        epochs = images / self.images_per_epoch
        return f"{steps:,} steps = {images / 1000:,.1f} kimg = {epochs:,.1f} epochs"


@dataclass(frozen=True)
class Duration:
    """A length of training: "5000 kimg", "97500 steps" or "20 epochs"."""

    amount: float
    unit: Literal["kimg", "steps", "epochs"]

    @classmethod
    def parse(cls, text: "Time", key: str) -> "Duration":
        """Read the value of a key. Raises UserError where it is not a positive number with a unit."""
        number = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[0-9]+)?"
        match = re.fullmatch(rf"\s*(?P<amount>{number})\s*(?P<unit>kimg|steps?|epochs?)\s*", str(text))
        if not match or not 0 < (amount := float(match["amount"])) < 1e15:
            raise UserError(
                f'{key}: "{text}" is no duration; write a positive number and kimg, steps or epochs, '
                f'as in {key}="500 kimg"'
            )
        unit = match["unit"] if match["unit"] == "kimg" else match["unit"].rstrip("s") + "s"
        return cls(amount, unit)  # type: ignore[arg-type]


Time = str | float
"""A duration in a configuration. A number alone is none, but only `Duration.parse` can say so well."""
