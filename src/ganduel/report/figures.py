"""Figures for a paper, as PNG and SVG, of the numbers that runs have logged. Matplotlib draws them.

The page (`page`) has a chart for each quantity. A figure puts quantities that belong together into one plot: the losses
of G and of D, all terms of CycleGAN, one accuracy of D.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ganduel.report.curves import Point, spread_out, thinned, title
from ganduel.report.page import run_names
from ganduel.report.runs import Row, RunLog
from ganduel.system.errors import UserError, installed
from ganduel.system.files import make_folder, replacing

MOST = 500  # points of a line
SIZE = 5.0, 3.2  # inches: about the width of a page's text
DPI = 200
METADATA: dict[str, dict[str, str | None]] = {"png": {}, "svg": {"Date": None}}  # so equal numbers make equal files
STYLE = {
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ganduel",
}
# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933"


class Line(NamedTuple):
    """One line of a plot."""

    label: str
    points: list[Point]  # images seen or steps, value
    faint: bool = False  # a loss whose smoothed line has the same colour and the label
    dashed: bool = False  # on held-out images


class Figure(NamedTuple):
    """A kind of figure. `lines` finds its lines in a run; [] if the run has logged none of its quantities."""

    title: str
    lines: Callable[[RunLog], list[Line]]
    together: bool  # all runs in one plot, over images seen; otherwise one plot for each run, over turns of G


def points(rows: Sequence[Row], value: Callable[[Row], float | None], position: str) -> list[Point]:
    found = [(row[position], number) for row in rows if (number := value(row)) is not None]
    return thinned(found, MOST) if found else []


def quantities(run: RunLog, starts: tuple[str, ...], position: str = "step") -> list[str]:
    """The names of the logged numbers that begin with one of `starts`, in the order of the first row that has them."""
    return [*dict.fromkeys(n for row in run.stats for n in row if n.startswith(starts) and position in row)]


def single(run: RunLog, name: str, position: str = "step") -> list[Point]:
    """The points of one logged number."""
    return points(run.stats, lambda row: row.get(name), position)


def smoothed(run: RunLog, *players: str) -> list[Line]:
    """The losses of players. Each has a faint line, and the smoothed one of the same colour."""
    lines = []
    for name in quantities(run, tuple(f"loss/{player}" for player in players)):
        average = name.replace("loss/", "loss_ema/", 1)
        lines.append(Line(title(name), single(run, name), faint=bool(single(run, average))))
        lines += [Line(title(name), found)] if (found := single(run, average)) else []
    return lines


def held_out(run: RunLog) -> list[Line]:
    """The losses of both players on held-out images."""
    found = quantities(run, ("validation/loss/D", "validation/loss/G"))
    return [Line(title(name.removeprefix("validation/")), single(run, name), dashed=True) for name in found]


def terms(run: RunLog) -> list[Line]:
    """All logged losses of a run, not smoothed: those of the players, cycle, identity, penalties, the total."""
    return [Line(title(name), single(run, name)) for name in quantities(run, ("loss/", "total/"))]


def right(run: RunLog) -> list[Line]:
    """The share of images that D gets right, real and generated ones alike: in training, and on held-out images."""

    def mean(start: str) -> Callable[[Row], float | None]:
        return lambda row: statistics.fmean(found) if (found := [row[n] for n in row if n.startswith(start)]) else None

    kinds = ("training", "accuracy/", False), ("held-out images", "validation/accuracy/", True)
    lines = [Line(label, points(run.stats, mean(start), "images"), dashed=dashed) for label, start, dashed in kinds]
    return [line for line in lines if line.points]


def measured(*metrics: str) -> Callable[[RunLog], list[Line]]:
    """The lines of these metrics, with any features and comparisons."""

    def lines(run: RunLog) -> list[Line]:
        found = dict.fromkeys(n for row in run.metrics for n in row if n.startswith(metrics) and "_std" not in n)
        some = [Line(title(n), points(run.metrics, lambda row, n=n: row.get(n), "images")) for n in found]  # type: ignore[misc]
        return [line for line in some if line.points and isinstance(line.points[0][1], float)]

    return lines


def logged(*starts: str) -> Callable[[RunLog], list[Line]]:
    """The lines of logged numbers whose names begin so, over images seen."""
    return lambda run: [Line(title(n), single(run, n, "images")) for n in quantities(run, starts, "images")]


FIGURES = {
    "losses": Figure("Losses of G and D", lambda run: smoothed(run, "G", "D"), False),
    "terms": Figure("All losses", terms, False),
    "critic": Figure("Loss of D, smoothed", lambda run: smoothed(run, "D"), False),
    "validation": Figure("Losses on held-out images", held_out, False),
    "accuracy": Figure("Accuracy of D", right, True),
    "fid": Figure("FID", measured("fid"), True),
    "collapse": Figure("FID between successive samples", measured("successive_fid"), True),
    "learning_rate": Figure("Learning rate", logged("learning_rate/"), True),
    "speed": Figure("Images per second", logged("speed/images_per_second"), True),
    "memory": Figure("Memory, GB", logged("memory/gigabytes"), True),
}


def draw(runs: Sequence[RunLog], folder: Path) -> list[Path]:
    """Write all figures that the runs have numbers for into a folder. Returns their files.

    Figures of all runs are called `fid.png` and `fid.svg`, those of one run of several `losses-NAME.png`. Raises
    UserError if Matplotlib is missing or the runs have logged nothing.
    """
    matplotlib = installed("matplotlib", "figures", "figures=FOLDER")
    make_folder(folder, "figures")
    written = []
    for name, figure, lines in plots(runs):
        with matplotlib.rc_context(STYLE):
            canvas = plotted(figure, lines)
            for suffix, metadata in METADATA.items():
                path = folder / f"{name}.{suffix}"
                with replacing(path) as temporary:
                    canvas.savefig(temporary, format=suffix, dpi=DPI, metadata=metadata)
                written.append(path)
    if not written:
        raise UserError(f"figures={folder}: the runs have logged nothing yet; train them first")
    return written


def plots(runs: Sequence[RunLog]) -> Iterator[tuple[str, Figure, list[Line]]]:
    """(file name without suffix, figure, lines) of each plot that has lines."""
    labels = run_names(runs)
    for name, figure in FIGURES.items():
        found = [(label, lines) for label, run in zip(labels, runs, strict=True) if (lines := figure.lines(run))]
        if not figure.together:
            for label, lines in found:
                yield name if len(runs) == 1 else f"{name}-{label.replace('/', '-')}", figure, lines
        elif found:
            alone = len(found) == 1
            lines = [
                line if alone else line._replace(label=label if len(some) == 1 else f"{label}: {line.label}")
                for label, some in found
                for line in some
            ]
            yield name, figure, lines


def plotted(figure: Figure, lines: Sequence[Line]) -> Any:
    """A Matplotlib figure of the lines."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=SIZE, layout="constrained")
    axes = canvas.add_subplot()
    colours = {
        line.label: COLOURS[i % len(COLOURS)] for i, line in enumerate({one.label: one for one in lines}.values())
    }
    for line in lines:
        x, y = zip(*line.points, strict=True)
        axes.plot(
            [value / 1000 for value in x] if figure.together else x,
            y,
            color=colours[line.label],
            label=f"_{line.label}" if line.faint else line.label,
            linewidth=0.6 if line.faint else 1.2,
            alpha=0.35 if line.faint else 1.0,
            linestyle="--" if line.dashed else "-",
            marker="o" if len(x) < 12 else None,
            markersize=3,
        )
    axes.set_xlabel("images seen, thousands" if figure.together else "turns of G")
    axes.set_ylabel(figure.title)
    axes.grid(linewidth=0.3, alpha=0.6)
    if figure is FIGURES["accuracy"]:
        axes.set_ylim(-0.02, 1.02)
    elif spread_out([value for line in lines for _, value in line.points]):
        axes.set_yscale("log")
    if len(colours) > 1:
        axes.legend(frameon=False, fontsize=7, ncols=1 + (len(colours) > 5))
    return canvas
