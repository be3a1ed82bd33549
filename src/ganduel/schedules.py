"""Learning rate schedules. A schedule is a pure function of time, so a resumed run has nothing to restore.

Each function here returns a schedule. Times are in kimg, steps or epochs, as in "5 epochs". Over the time `warmup`, the
rate is multiplied by a factor that rises linearly from 0 to 1; None means no warm-up.

Raises UserError for a time that is not a duration, ValueError for another number out of range.
"""

import math
from collections.abc import Callable

from ganduel.clock import Clock, Duration, Time

Schedule = Callable[[Clock, float], float]
"""(clock, the optimizer's own learning rate) -> learning rate now."""


def constant(warmup: Time | None) -> Schedule:
    """Keeps the optimizer's learning rate."""
    return _warmed(lambda clock, rate: rate, warmup)


def step(every: Time, factor: float, floor: float, warmup: Time | None) -> Schedule:
    """Multiplies the rate by `factor` after each `every`, like PyTorch's StepLR, but never below `floor`."""
    return _falling(every, factor, floor, warmup, lambda times: math.floor(times + 1e-9))


def exponential(every: Time, factor: float, floor: float, warmup: Time | None) -> Schedule:
    """Multiplies the rate by `factor` over each `every`, smoothly, but never below `floor`.

    With every="1 epoch", it equals PyTorch's ExponentialLR at the end of each epoch.
    """
    return _falling(every, factor, floor, warmup, lambda times: times)


def _falling(
    every: Time, factor: float, floor: float, warmup: Time | None, falls: Callable[[float], float]
) -> Schedule:
    period = Duration.parse(every, "scheduler.every")
    if factor <= 0:
        raise ValueError(f"factor={factor} must be more than 0")
    _check_floor(floor)
    return _warmed(lambda clock, rate: max(rate * factor ** falls(clock.passed(period)), min(floor, rate)), warmup)


def cosine(length: Time, floor: float, warmup: Time | None) -> Schedule:
    """Falls along half a cosine to `floor` after `length`, then stays (Loshchilov and Hutter 2017, no restarts)."""
    whole = Duration.parse(length, "scheduler.length")
    _check_floor(floor)

    def schedule(clock: Clock, rate: float) -> float:
        progress, low = min(clock.passed(whole), 1), min(floor, rate)
        return low + (rate - low) * (1 + math.cos(math.pi * progress)) / 2

    return _warmed(schedule, warmup)


def linear_decay(length: Time, hold: float, warmup: Time | None) -> Schedule:
    """Keeps the rate for the share `hold` of `length`, then falls linearly to 0 (Zhu et al. 2017, with hold=0.5)."""
    whole = Duration.parse(length, "scheduler.length")
    if not 0 <= hold < 1:
        raise ValueError(f"hold={hold} must be a share of the length, from 0 to less than 1")

    def schedule(clock: Clock, rate: float) -> float:
        return rate * min(max((1 - clock.passed(whole)) / (1 - hold), 0), 1)

    return _warmed(schedule, warmup)


def _warmed(schedule: Schedule, warmup: Time | None) -> Schedule:
    if warmup is None:
        return schedule
    rise = Duration.parse(warmup, "scheduler.warmup")
    return lambda clock, rate: schedule(clock, rate) * min(clock.passed(rise), 1)


def _check_floor(floor: float) -> None:
    if floor < 0:
        raise ValueError(f"floor={floor} must be 0 or more")
