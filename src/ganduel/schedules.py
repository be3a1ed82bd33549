"""Schedules: how a number of the configuration changes with time.

A schedule is a pure function of time, so a resumed run has nothing to restore. `scheduler` moves both learning rates,
`schedule.KEY` moves the number KEY (see `dials`).

Each function here returns a schedule. Times are in kimg, steps or epochs, as in "5 epochs". Over the time `warmup`, the
number is multiplied by a factor that rises linearly from 0 to 1; None means no warm-up.

Raises UserError for a time that is not a duration, ValueError for another number out of range.
"""

import math
from collections.abc import Callable

from ganduel.clock import Clock, Duration, Time

Schedule = Callable[[Clock, float], float]
"""(clock, the number's own value) -> its value now."""


def constant(warmup: Time | None) -> Schedule:
    """Keeps the number's own value."""
    return _warmed(lambda clock, value: value, warmup)


def step(every: Time, factor: float, floor: float, warmup: Time | None) -> Schedule:
    """Multiplies the number by `factor` after each `every`, like PyTorch's StepLR, but never below `floor`."""
    return _falling(every, factor, floor, warmup, lambda times: math.floor(times + 1e-9))


def exponential(every: Time, factor: float, floor: float, warmup: Time | None) -> Schedule:
    """Multiplies the number by `factor` over each `every`, smoothly, but never below `floor`.

    With every="1 epoch", it equals PyTorch's ExponentialLR at the end of each epoch.
    """
    return _falling(every, factor, floor, warmup, lambda times: times)


def _falling(
    every: Time, factor: float, floor: float, warmup: Time | None, falls: Callable[[float], float]
) -> Schedule:
    period = Duration.parse(every, "scheduler.every")
    if factor <= 0:
        raise ValueError(f"factor={factor} must be more than 0")
    if floor < 0:
        raise ValueError(f"floor={floor} must be 0 or more")
    return _warmed(lambda clock, value: max(value * factor ** falls(clock.passed(period)), min(floor, value)), warmup)


def cosine(length: Time, hold: float, start: float | None, end: float | None, warmup: Time | None) -> Schedule:
    """Goes from `start` to `end` along half a cosine (Loshchilov and Hutter 2017, without restarts), then stays.

    The number keeps `start` for the share `hold` of `length`, and is at `end` after `length`. None is the number's own
    value.
    """
    return _between(length, hold, start, end, warmup, lambda progress: (1 - math.cos(math.pi * progress)) / 2)


def linear(length: Time, hold: float, start: float | None, end: float | None, warmup: Time | None) -> Schedule:
    """Goes from `start` to `end` along a line, then stays. `length`, `hold` and None are those of `cosine`."""
    return _between(length, hold, start, end, warmup, lambda progress: progress)


def linear_decay(length: Time, hold: float, warmup: Time | None) -> Schedule:
    """Keeps the number for the share `hold` of `length`, then falls linearly to 0 (Zhu et al. 2017, with hold=0.5)."""
    return linear(length, hold, None, 0.0, warmup)


def _between(
    length: Time,
    hold: float,
    start: float | None,
    end: float | None,
    warmup: Time | None,
    shape: Callable[[float], float],
) -> Schedule:
    whole = Duration.parse(length, "scheduler.length")
    if not 0 <= hold < 1:
        raise ValueError(f"hold={hold} must be a share of the length, from 0 to less than 1")
    for name, number in {"start": start, "end": end}.items():
        if number is not None and number < 0:
            raise ValueError(f"{name}={number} must be 0 or more, or null for the number's own value")

    def schedule(clock: Clock, value: float) -> float:
        first, last = (value if number is None else number for number in (start, end))
        progress = min(max((clock.passed(whole) - hold) / (1 - hold), 0), 1)
        return first + (last - first) * shape(progress)

    return _warmed(schedule, warmup)


def _warmed(schedule: Schedule, warmup: Time | None) -> Schedule:
    if warmup is None:
        return schedule
    rise = Duration.parse(warmup, "scheduler.warmup")
    return lambda clock, value: schedule(clock, value) * min(clock.passed(rise), 1)
