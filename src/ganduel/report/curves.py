"""Charts of several runs as SVG."""

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from ganduel.system.templates import render

TEMPLATE = Path(__file__).with_name("chart.svg.jinja")
WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 10, 26  # margins around the curves
DECADES = 1.5  # the axis is logarithmic if positive values span more decades than this
LINEAR = ("accuracy",)  # quantities whose names begin so always have a linear axis
COLOURS = 8  # number of curve colours in page.css

Point = tuple[float, float]


class Curve(NamedTuple):
    """One quantity of one run."""

    run: int  # number of the run, which decides its colour
    label: str
    kind: str  # plain, faint (a loss that also has a smoothed curve) or held (on held-out images)
    points: list[Point]  # images seen, value


def curves(rows: Sequence[dict[str, Any]], run: int, label: str, most: int) -> dict[str, list[Curve]]:
    """Name -> curves of a run's statistics or metrics, with at most `most` points each.

    A quantity, its smoothed curve (loss_ema/) and its values on held-out images (validation/) share one name.
    """
    names = dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, float))
    found: dict[str, list[Curve]] = {}
    for name in names:
        points = [(row["images"], row[name]) for row in rows if isinstance(row.get(name), float)]
        points = [point for point in points if math.isfinite(point[1])]
        base = name.removeprefix("validation/").replace("loss_ema/", "loss/", 1)
        averaged = f"{name.replace('loss/', 'loss_ema/', 1)}" in names and name.startswith("loss/")
        kind = "held" if name.startswith("validation/") else "faint" if averaged else "plain"
        if points:
            found.setdefault(base, []).append(Curve(run, label, kind, thinned(points, most)))
    return found


def thinned(points: list[Point], most: int) -> list[Point]:
    """At most `most` points. Each is the mean of a group of neighbours, at the position of the last one."""
    size = -(-len(points) // most)
    groups = [points[max(0, end - size) : end] for end in range(len(points), 0, -size)]
    return [(group[-1][0], statistics.fmean(value for _, value in group)) for group in reversed(groups)]


def chart(name: str, shown: Sequence[Curve]) -> Markup:
    """An SVG of curves over images seen."""
    xs, ys = ([point[axis] for curve in shown for point in curve.points] for axis in (0, 1))
    logarithmic = not name.startswith(LINEAR) and min(ys) > 0 and max(ys) / min(ys) > 10**DECADES
    scale = math.log10 if logarithmic else float
    low, high = scale(min(ys)), scale(max(ys))
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):  # put a flat line in the middle
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    first, last = min(xs), max(max(xs), min(xs) + 1)

    def x(value: float) -> float:
        return LEFT + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def path(points: Sequence[Point]) -> str:
        steps = [f"{x(a):.1f} {y(scale(b)):.1f}" for a, b in points]
        return "L".join(steps) + (f"h.01M{steps[-1]}" if len(steps) == 1 else "")  # a single point is a dot

    note = ", logarithmic" if logarithmic else ""
    svg = render(
        TEMPLATE,
        spoken=f"{name} over images seen{note}, from {number(min(ys))} to {number(max(ys))}",
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        rulers=[
            (y(tick), number(10**tick if logarithmic else tick))
            for tick in (decades(low, high) if logarithmic else ticks(low, high))
        ],
        marks=[(x(tick), number(tick)) for tick in ticks(first, last)],
        paths=[(curve, path(curve.points)) for curve in shown],
        colours=COLOURS,
        number=number,
    )
    return Markup(svg.rstrip())


def ticks(low: float, high: float) -> Iterable[float]:
    """Three to six round numbers from `low` to `high`."""
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step = next(step * factor for factor in (5, 2, 1, 0.5) if (high - low) / (step * factor) >= 2)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> Iterable[float]:
    """The log10 of ..., 1, 10, 100, ... from `low` to `high`; in up to 3 decades, also of 2 and 5 times these."""
    steps = (1.0,) if high - low > 3 else (1.0, 2.0, 5.0)
    found = (i + math.log10(step) for i in range(math.floor(low), math.floor(high) + 1) for step in steps)
    return [tick for tick in found if low <= tick <= high]


def number(value: float) -> str:
    """A number as short text: 1.2M, 35k, 0.0025."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
