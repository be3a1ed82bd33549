"""The clock of a run, and durations.

The clock counts turns of G (steps) and real images that the discriminators have seen. An iteration is one round of
turns. Everything that changes with time is a function of these two counts, and they never decrease.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from ganduel.system.errors import UserError


@dataclass
class Clock:
    """The time of a run, and the length of durations.

    A resumed run may change its batch size or its turns. Then its iterations change their size, but its counts go on.
    So the clock measures a duration in steps by the steps, and a duration in kimg or epochs by the images seen.
    """

    images_per_iteration: int
    steps_per_iteration: int  # a step is one turn of G
    images_per_epoch: int
    steps: int = 0
    images_seen: int = 0

    def tick(self) -> None:
        """Count one more iteration."""
        self.steps += self.steps_per_iteration
        self.images_seen += self.images_per_iteration

    def passed(self, duration: "Duration") -> float:
        """The time since the run began, divided by `duration`."""
        whole, so_far, _ = self._measured(duration)
        return so_far / whole

    def left(self, duration: "Duration") -> int:
        """The smallest number of further iterations after which the run has lasted for `duration`.

        It is 0 or less if the run has already lasted that long.
        """
        whole, so_far, each = self._measured(duration)
        return math.ceil((whole - so_far) / each - 1e-9)

    def iterations(self, duration: "Duration") -> int:
        """The smallest number of iterations of the current size that last for `duration`, 1 or more."""
        whole, _, each = self._measured(duration)
        return max(1, math.ceil(whole / each - 1e-9))

    def images(self, duration: "Duration") -> float:
        """The number of real images that D sees in this time, with iterations of the current size."""
        whole, _, each = self._measured(duration)
        return whole * self.images_per_iteration / each

    def _measured(self, duration: "Duration") -> tuple[float, int, int]:
        """The length of `duration`, the time so far and the length of an iteration, all in steps or all in images."""
        if duration.unit == "steps":
            return duration.amount, self.steps, self.steps_per_iteration
        images = 1000 if duration.unit == "kimg" else self.images_per_epoch
        return duration.amount * images, self.images_seen, self.images_per_iteration

    def describe(self, ahead: int = 0) -> str:
        """The time after `ahead` more iterations, as text in all units."""
        steps = self.steps + ahead * self.steps_per_iteration
        images = self.images_seen + ahead * self.images_per_iteration
        kimg, epochs = (
            f"{x:,.1f}" if x >= 0.05 else f"{x:.2g}" for x in (images / 1000, images / self.images_per_epoch)
        )
        return f"{steps:,} steps = {kimg} kimg = {epochs} epochs"


@dataclass(frozen=True)
class Duration:
    """A length of training: "5000 kimg", "97500 steps" or "20 epochs"."""

    amount: float
    unit: Literal["kimg", "steps", "epochs"]

    @classmethod
    def parse(cls, text: "Time", key: str) -> "Duration":
        """Read the value of `key`. Raises UserError if it is not a positive number below 1e15 with a unit."""
        number = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[0-9]+)?"
        match = re.fullmatch(rf"\s*(?P<amount>{number})\s*(?P<unit>kimg|steps?|epochs?)\s*", str(text))
        if not match or not 0 < (amount := float(match["amount"])) < 1e15:
            raise UserError(
                f'{key}: "{text}" is not a duration; write a positive number and kimg, steps or epochs, '
                f'as in {key}="500 kimg"'
            )
        unit = match["unit"] if match["unit"] == "kimg" else match["unit"].rstrip("s") + "s"
        return cls(amount, unit)  # type: ignore[arg-type]


Time = str | float
"""A duration in a configuration. `Duration.parse` refuses a number without a unit, with a clear message."""
