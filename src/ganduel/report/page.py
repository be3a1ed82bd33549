"""The page of gan-report: one HTML file that holds all its pictures, so it opens offline and without the runs."""

import base64
import functools
import hashlib
import io
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from PIL import Image

from ganduel import __version__
from ganduel.report.curves import Chart, chart, curves, sections, title
from ganduel.report.runs import RESULTS, Row, RunLog, cell, compared, shown
from ganduel.system.errors import UserError
from ganduel.system.files import kimg, numbered, parsing
from ganduel.system.templates import render
from ganduel.system.terminal import say

TEMPLATE = Path(__file__).with_name("page.html.jinja")
LIMIT = 5_000_000  # bytes of the whole page
CURVES = 1_500_000  # about the most of these bytes for curves
POINT = 16  # bytes of one point of a curve
COLOURS = 8  # number of colours of runs in page.css
SIDE = 1024  # the largest width or height of a picture, in pixels
SHARP = 512  # smaller pictures are enlarged to about this size, in whole numbers, so that their pixels stay squares
FEW = 3  # settings that a caption names if there are more than one more
FRAMES = 16  # the most pictures over time of one run; fewer if there are many runs


class EmbeddedPicture(NamedTuple):
    """A picture inside the page."""

    images: int  # images seen by D at that time
    address: str  # a data address that contains the picture
    width: int
    height: int


class Gallery(NamedTuple):
    """The pictures of a run. Those that cannot be read are left out."""

    reals: EmbeddedPicture | None
    frames: list[EmbeddedPicture]  # samples of the same seeds, over time
    judged: EmbeddedPicture | None  # D's output on real and fake images


def page(runs: Sequence[RunLog], rows: Sequence[Row], live: bool = False) -> str:
    """The HTML of the page, less than 5 MB. `rows` holds the settings and results of each run.

    A `live` page asks its server for a newer one every few seconds. Any other page can load nothing.
    """
    labels, keys = run_names(runs), list(rows[0])[1 : list(rows[0]).index(RESULTS)]
    told = []
    for label, row in zip(labels, rows, strict=True):
        settings = [f"{key}={row[key]}" for key in keys if row[key] is not None]
        if len(settings) > FEW + 1:
            settings[FEW:] = [f"{len(settings) - FEW} more"]
        told.append(f"{label}: {', '.join(settings)}" if settings else label)
    sources = ("uplot/uPlot.min.css", "page.css"), ("uplot/uPlot.iife.min.js", "page.js")
    style, script = ("".join((TEMPLATE.parent / n).read_text(encoding="utf-8") for n in some) for some in sources)
    numeric = {name: all(isinstance(row[name], int | float | None) for row in rows) for name in shown(rows)}
    drawn = sections(charts(runs))
    fill = functools.partial(
        render,
        TEMPLATE,
        title=f"Report of {labels[0]}" if len(runs) == 1 else f"Report of {len(runs)} runs",
        made=f"{time.strftime('%F %H:%M')}, ganduel {__version__}",
        policy=policy(style, script, live),
        live=live,
        style=Markup(style),
        script=Markup(script),
        colours=COLOURS,
        runs=runs,
        labels=labels,
        settings=told,
        best=best(runs, labels),
        columns={name: "number" if is_number else "text" for name, is_number in numeric.items()},
        rows=rows,
        cell=cell,
        heading=title,
        repeats=repeats(runs, rows, keys),
        sections=drawn,
        numbers=embedded_json({"runs": labels, "charts": [one.data for some in drawn.values() for one in some]}),
    )
    left = LIMIT - len(fill(galleries=[Gallery(None, [], None) for _ in runs]).encode()) - 10_000
    most = max(3, min(FRAMES, 64 // len(runs)))
    chosen = [pictures(run, most) for run in runs]
    count = sum(len(frames) + bool(reals) + bool(judged) for reals, frames, judged in chosen)
    share = left // max(1, count) - 300  # tags take about 300 bytes
    share -= share % 1000 if share > 10_000 else 0  # one more picture then leaves the others as they are
    return fill(galleries=[gallery(*some, share) for some in chosen])


def policy(style: str, script: str, live: bool) -> str:
    """The page's Content-Security-Policy: this style and this script, pictures inside the page, nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        f"connect-src {chr(39)}{'self' if live else 'none'}{chr(39)}; base-uri 'none'; form-action 'none'"
    )


def embedded_json(values: Any) -> Markup:
    """JSON for a script element. No text in it can end the element."""
    return Markup(json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def best(runs: Sequence[RunLog], labels: Sequence[str]) -> tuple[str, float, int, int] | None:
    """(title, value, number of the run, images seen) of the best value of the first metric that any run has."""
    for name, sign in compared(runs).items():
        found = [(sign * row[name], i, row) for i, run in enumerate(runs) for row in run.metrics if name in row]
        if found:
            _, i, row = min(found, key=lambda one: one[0])
            return title(name), row[name], i, row["images"]
    return None


class Repeats(NamedTuple):
    """A metric of runs that differ only in their seeds: `groups` holds (settings, [(run, value)], mean, deviation)."""

    title: str
    groups: list[tuple[str, list[tuple[int, float]], float, float]]
    low: float  # ends of the axis
    high: float

    def place(self, value: float) -> str:
        """The position of a value on the axis, as a percentage for SVG."""
        return f"{5 + 90 * (value - self.low) / (self.high - self.low):.2f}%"


def repeats(runs: Sequence[RunLog], rows: Sequence[Row], keys: Sequence[str]) -> list[Repeats]:
    """The best value of every metric, with mean and standard deviation over seeds. [] if no seeds repeat."""
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        own = ", ".join(f"{key}={row[key]}" for key in keys if key not in ("seed", "name") and row[key] is not None)
        groups.setdefault(own or "all runs", []).append(i)
    found = []
    for name in compared(runs):
        column = f"{name}, best"
        valued = {
            own: [(i, rows[i][column]) for i in some if rows[i][column] is not None] for own, some in groups.items()
        }
        kept = [(own, some) for own, some in valued.items() if some]
        if max((len(some) for _, some in kept), default=0) < 2:
            continue
        measured = []
        for own, some in kept:
            values = [value for _, value in some]
            measured.append((own, some, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0))
        ends = [v for _, some, mean, std in measured for v in (mean - std, mean + std, *(value for _, value in some))]
        low, high = min(ends), max(ends)
        found.append(Repeats(title(name), measured, low, high if high > low else low + 1))
    return found


def run_names(runs: Sequence[RunLog]) -> list[str]:
    """The names of the runs: their paths relative to the deepest folder that contains them all."""
    shared = os.path.commonpath([run.path.absolute().parent for run in runs])
    return [os.path.relpath(run.path.absolute(), shared) for run in runs]


def charts(runs: Sequence[RunLog]) -> list[Chart]:
    """One chart per quantity that a run has logged."""
    quantities = sum(len(rows[-1]) for run in runs for rows in (run.metrics, run.stats) if rows)
    most = max(20, min(200, CURVES // (POINT * max(1, quantities))))
    found: dict[str, list] = {}
    for i, run in enumerate(runs):
        for rows in (run.metrics, run.stats):
            for name, some in curves(rows, i, most).items():
                found.setdefault(name, []).extend(some)
    return [chart(name, some) for name, some in found.items()]


def pictures(run: RunLog, most: int) -> tuple[Path | None, list[Path], Path | None]:
    """The files of a run's pictures: real images, up to `most` samples over time, the last histograms."""
    folder = run.path / "samples"
    grids = numbered(folder, ".png")
    if len(grids) > most:
        grids = [grids[round(i * (len(grids) - 1) / (most - 1))] for i in range(most)]
    reals = folder / "reals.png"
    judged = numbered(folder / "histograms", ".png")
    return reals if reals.exists() else None, grids, next(reversed(judged), None)


def gallery(reals: Path | None, grids: Sequence[Path], judged: Path | None, share: int) -> Gallery:
    """The pictures that can be read, each in at most `share` bytes of the page."""

    def read(path: Path | None, images: int = 0) -> EmbeddedPicture | None:
        found = path and embedded(path, path.stat().st_mtime_ns, share)
        return EmbeddedPicture(images, *found) if found else None

    frames = [picture for path in grids if (picture := read(path, round(1000 * kimg(path))))]
    return Gallery(read(reals), frames, read(judged))


@functools.lru_cache(1024)  # a live page is made again and again
def embedded(path: Path, changed: int, most: int) -> tuple[str, int, int] | None:
    """A picture as a data address of at most `most` bytes, with its width and height in pixels.

    A small picture is enlarged without blur, a large one made smaller until it fits. None if it cannot be read, or
    would be smaller than 48 pixels. `changed` is the time of the file.
    """
    try:
        with parsing(path, "a picture"), Image.open(path, formats=["PNG"]) as image:
            picture = image.convert("RGB")
    except UserError as error:
        say(f"warning: {error}")
        return None
    times = math.ceil(SHARP / max(picture.size))
    sizes = [(picture.width * times, picture.height * times)] if times > 1 else []
    side = min(SIDE, max(picture.size))
    while sizes or side >= 48:
        if sizes:
            fitted = picture.resize(sizes.pop(), Image.Resampling.NEAREST)
        else:
            fitted = picture.copy()
            fitted.thumbnail((side, side), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        fitted.save(encoded, format="webp", quality=85)
        size = 4 * math.ceil(encoded.tell() / 3) + 30
        if size <= most:
            text = base64.b64encode(encoded.getvalue()).decode()
            return f"data:image/webp;base64,{text}", *fitted.size
        if fitted.size <= picture.size:
            side = int(side * max(0.5, min(0.9, math.sqrt(most / size))))
    return None
