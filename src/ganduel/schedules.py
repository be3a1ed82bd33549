"""Learning rates over time. A schedule is a pure function of the time, so a resumed run has nothing to restore.

Each function takes lengths of time in kimg, steps or epochs ("5 epochs") and returns a schedule; all may begin with a
warm-up, a factor that rises from 0 to 1.
"""

import math
from collections.abc import Callable

from ganduel.pace import Clock, Duration, Time

Schedule = Callable[[Clock, float], float]
"""(clock, the optimizer's own learning rate) -> learning rate now."""


def constant(warmup: Time | None) -> Schedule:
    """The optimizer's own learning rate."""
    return _warmed(lambda clock, rate: rate, warmup)


def step(every: Time, factor: float, floor: float, warmup: Time | None) -> Schedule:
    """Times `factor` after each `every`, no lower than `floor`: PyTorch's StepLR."""
    return _falling(every, factor, floor, warmup, lambda times: math.floor(times + 1e-9))


def exponential(every: Time, factor: float, floor: float, warmup: Time | None) -> Schedule:
    """A smooth fall by `factor` over each `every`, no lower than `floor`.

    With an epoch, PyTorch's ExponentialLR stepped once an epoch meets it at the ends of epochs.
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
    """Half a cosine down to `floor` after `length`, where it stays (Loshchilov and Hutter 2017, without restarts)."""
    whole = Duration.parse(length, "scheduler.length")
    _check_floor(floor)

    def schedule(clock: Clock, rate: float) -> float:
        progress, low = min(clock.passed(whole), 1), min(floor, rate)
        return low + (rate - low) * (1 + math.cos(math.pi * progress)) / 2

    return _warmed(schedule, warmup)


def linear_decay(length: Time, hold: float, warmup: Time | None) -> Schedule:
    """Full for the share `hold` of the `length`, then straight to 0 (Zhu et al. 2017, half and half)."""
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
