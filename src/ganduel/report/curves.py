"""The charts of a report: the quantities that runs have logged, with readable names."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ganduel.config.schema import FEATURES, METRICS, features_label

DECADES = 1.5  # the axis is logarithmic if positive values span more decades than this
LINEAR = ("accuracy", "health/r")  # quantities whose names begin so always have a linear axis

Point = tuple[float, float]


class Curve(NamedTuple):
    """One quantity of one run."""

    run: int  # number of the run, which decides its colour
    kind: str  # plain, faint (a loss that also has a smoothed curve) or held (on held-out images)
    points: list[Point]  # images seen, value


class Chart(NamedTuple):
    """One quantity of all runs that have logged it."""

    name: str
    title: str
    logarithmic: bool
    curves: list[Curve]

    @property
    def data(self) -> dict[str, Any]:
        """The chart as the page's script takes it. Values have five digits."""
        lines = [
            {"run": c.run, "kind": c.kind, "x": [x for x, _ in c.points], "y": [float(f"{y:.5g}") for _, y in c.points]}
            for c in self.curves
        ]
        return {"title": self.title, "log": self.logarithmic, "lines": lines}


def curves(rows: Sequence[dict[str, Any]], run: int, most: int) -> dict[str, list[Curve]]:
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
            found.setdefault(base, []).append(Curve(run, kind, thinned(points, most)))
    return found


def thinned(points: list[Point], most: int) -> list[Point]:
    """At most `most` points. Each is the mean of a group of neighbours, at the position of the last one."""
    size = -(-len(points) // most)
    groups = [points[max(0, end - size) : end] for end in range(len(points), 0, -size)]
    return [(group[-1][0], statistics.fmean(value for _, value in group)) for group in reversed(groups)]


def chart(name: str, shown: list[Curve]) -> Chart:
    """The chart of a quantity. Its axis is logarithmic if all values are positive and far apart."""
    values = [value for curve in shown for _, value in curve.points]
    return Chart(name, title(name), not name.startswith(LINEAR) and spread_out(values), shown)


def spread_out(values: Sequence[float]) -> bool:
    """Whether values are so far apart that a logarithmic axis shows them better: all positive, over many decades."""
    return min(values) > 0 and max(values) / min(values) > 10**DECADES


# Beginning of a quantity's name -> beginning of its title. The rest of the name follows.
TITLES = {
    "loss/": "Loss of ",
    "total/": "Loss with penalties of ",
    "accuracy/": "Accuracy of D, ",
    "logits/": "Output of D, ",
    "regularizer/": "Penalty ",
    "learning_rate/": "Learning rate of ",
    "health/gradient/": "Gradient norm of ",
    "health/spread": "Spread of samples, against real images",
    "health/right": "Share that D gets right",
    "health/modes": "Share of the modes that samples cover",
    "health/r_t": "Overfitting: sign of D on real images (r_t)",
    "health/r_v": "Overfitting: training against held-out (r_v)",
    "speed/images_per_second": "Images per second",
    "speed/measuring": "Share of the time spent measuring",
    "speed/seconds": "Seconds for a measurement",
    "memory/gigabytes": "Memory, GB",
}
QUALITY = (
    *(name for name, _ in METRICS.values()),
    "precision",
    "density",
    "modes",
    "high_quality",
)  # all metrics' names, in order
METRIC_TITLES = {
    "fid": "FID",
    "kid": "KID",
    "isc": "Inception score",
    "ppl": "Perceptual path length",
    "successive_fid": "FID to the samples before",
    "modes": "Modes covered",
    "high_quality": "Share of points near a centre",
    "reverse_kl": "Reverse KL of modes, nats",
}


def title(name: str) -> str:
    """The title of a quantity: "Loss of G" for "loss/G", "FID, best" for "fid, best"."""
    metric, comma, which = name.partition(", ")  # a column of the results: "fid, best"
    for suffix, plain in sorted(_metrics(), key=lambda pair: -len(pair[0])):
        if metric == suffix or metric.startswith(f"{suffix}_"):  # then the name of a comparison follows: fid_A
            return f"{plain}{metric[len(suffix) :].replace('_', ' ')}{comma}{which}"
    for start, words in TITLES.items():
        if name.startswith(start):
            return words + name[len(start) :].replace("/", ", ")
    return f"{name[:1].upper()}{name[1:]}".replace("_", " ").replace("/", ", ")


def _metrics() -> Iterator[tuple[str, str]]:
    for metric in QUALITY:
        words = METRIC_TITLES.get(metric, metric.capitalize())
        for features, suffix in FEATURES.items():
            yield metric + suffix, words + (f" ({features_label(features)})" if suffix else "")


# Title of a section of charts, and the beginnings of its quantities' names. The last section takes what is left.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Quality": QUALITY,
    "Losses": ("loss", "total"),
    "Discriminator": ("accuracy", "logits"),
    "Health": ("health", "regularizer"),
    "Speed and settings": ("",),
}


def sections(charts: Sequence[Chart]) -> dict[str, list[Chart]]:
    """Section -> its charts, in order. Sections without any are left out."""
    found: dict[str, list[Chart]] = {name: [] for name in SECTIONS}
    for one in sorted(charts, key=lambda chart: chart.name):
        found[next(name for name, starts in SECTIONS.items() if one.name.startswith(starts))].append(one)
    found["Quality"].sort(key=lambda one: next(i for i, start in enumerate(QUALITY) if one.name.startswith(start)))
    return {name: some for name, some in found.items() if some}
