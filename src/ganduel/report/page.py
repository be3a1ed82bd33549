"""The page of gan-report: one HTML file that holds all its pictures, so it opens offline and without the runs."""

import base64
import io
import math
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from PIL import Image

from ganduel import __version__
from ganduel.config.schema import METRICS
from ganduel.report.curves import COLOURS, chart, curves
from ganduel.report.runs import RESULTS, Row, Run, cell, shown
from ganduel.system.errors import UserError
from ganduel.system.files import kimg, numbered, parsing
from ganduel.system.templates import render
from ganduel.system.terminal import say

TEMPLATE = Path(__file__).with_name("page.html.jinja")
LIMIT = 5_000_000  # bytes of the whole page
CURVES = 1_500_000  # about the most of these bytes for curves
POINT = 12  # bytes of one point of a curve
SIDE = 1024  # the largest width or height of a picture, in pixels
PICTURES = 7  # the most pictures of one run; fewer if there are many runs
FIRST = (*(name for name, _ in METRICS.values()), "loss", "total", "accuracy", "logits")  # curves that come first


class Picture(NamedTuple):
    """A picture inside the page."""

    caption: str
    address: str  # a data address that contains the picture
    width: int
    height: int


def page(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    """The HTML of the page, less than 5 MB. `rows` holds the settings and results of each run."""
    labels, keys = names(runs), list(rows[0])[1 : list(rows[0]).index(RESULTS)]
    told = []
    for label, row in zip(labels, rows, strict=True):
        settings = ", ".join(f"{key}={row[key]}" for key in keys if row[key] is not None)
        told.append(f"{label}: {settings}" if settings else label)
    style, script = (Markup(TEMPLATE.with_name(f"page.{kind}").read_text(encoding="utf-8")) for kind in ("css", "js"))
    numeric = {name: all(isinstance(row[name], int | float | None) for row in rows) for name in shown(rows)}
    fill = partial(
        render,
        TEMPLATE,
        title=f"Report of {labels[0]}" if len(runs) == 1 else f"Report of {len(runs)} runs",
        made=f"{time.strftime('%F %H:%M')}, ganduel {__version__}",
        style=style,
        script=script,
        colours=COLOURS,
        runs=runs,
        labels=labels,
        settings=told,
        columns={name: "number" if is_number else "text" for name, is_number in numeric.items()},
        rows=rows,
        cell=cell,
        charts=charts(runs, told),
    )
    left = LIMIT - len(fill(galleries=[[] for _ in runs]).encode()) - 10_000
    chosen = [pictures(run, max(2, min(PICTURES, 40 // len(runs)))) for run in runs]
    share = left // max(1, sum(map(len, chosen)))
    return fill(galleries=[gallery(some, share) for some in chosen])


def names(runs: Sequence[Run]) -> list[str]:
    """The names of the runs: their paths relative to the deepest folder that contains them all."""
    shared = os.path.commonpath([run.path.absolute().parent for run in runs])
    return [os.path.relpath(run.path.absolute(), shared) for run in runs]


def charts(runs: Sequence[Run], labels: Sequence[str]) -> dict[str, Markup]:
    """One chart (SVG) per quantity that a run has logged, by the name of the quantity."""
    quantities = sum(len(rows[-1]) for run in runs for rows in (run.metrics, run.stats) if rows)
    most = max(20, min(60, CURVES // (POINT * max(1, quantities))))
    found: dict[str, list] = {}
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        for name, some in [*curves(run.metrics, i, label, most).items(), *curves(run.stats, i, label, most).items()]:
            found.setdefault(name, []).extend(some)
    return {name: chart(name, found[name]) for name in sorted(found, key=_place)}


def _place(name: str) -> tuple[int, str]:
    return next((i for i, first in enumerate(FIRST) if name.startswith(first)), len(FIRST)), name


def pictures(run: Run, most: int) -> list[tuple[str, Path]]:
    """(caption, file) of the pictures of a run: real images, up to `most` samples, the last histograms."""
    folder = run.path / "samples"
    grids = numbered(folder, ".png")
    if len(grids) > most:
        grids = [grids[round(i * (len(grids) - 1) / (most - 1))] for i in range(most)]
    found = [("real images", folder / "reals.png")] if (folder / "reals.png").exists() else []
    found += [(f"{1000 * kimg(path):,.0f} images seen", path) for path in grids]
    judged = numbered(folder / "histograms", ".png")
    return found + [("what D makes of real and fake images", path) for path in judged[-1:]]


def gallery(chosen: Sequence[tuple[str, Path]], share: int) -> list[Picture]:
    """The pictures that can be read, each in at most `share` bytes of the page."""
    found = ((caption, embedded(path, share - 300)) for caption, path in chosen)
    return [Picture(caption, *picture) for caption, picture in found if picture]


def embedded(path: Path, most: int) -> tuple[str, int, int] | None:
    """A picture as a data address of at most `most` bytes, with its width and height in pixels.

    The picture is made smaller until it fits. None if it cannot be read, or would be smaller than 48 pixels.
    """
    try:
        with parsing(path, "a picture"), Image.open(path, formats=["PNG"]) as image:
            picture = image.convert("RGB")
    except UserError as error:
        say(f"warning: {error}")
        return None
    side = min(SIDE, max(picture.size))
    while side >= 48:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        picture.save(encoded, format="webp", quality=85)
        size = 4 * math.ceil(encoded.tell() / 3) + 30
        if size <= most:
            text = base64.b64encode(encoded.getvalue()).decode()
            return f"data:image/webp;base64,{text}", *picture.size
        side = int(side * max(0.5, min(0.9, math.sqrt(most / size))))
    return None
