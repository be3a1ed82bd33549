"""The page of gan-report: one HTML file that opens offline, whatever becomes of the runs."""

import base64
import io
import math
import os
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from ganduel import __version__
from ganduel.config.schema import METRICS
from ganduel.report.curves import COLOURS, chart, curves
from ganduel.report.runs import RESULTS, Row, Run, cell, shown
from ganduel.system.files import kimg

LIMIT = 5_000_000  # bytes of the whole page
CURVES = 1_500_000  # of these at most, about, for curves
POINT = 12  # bytes of one point of a curve
SIDE = 1024  # pixels that no picture needs more of
PICTURES = 7  # of one run, where there are few runs
FIRST = (*(name for name, _ in METRICS.values()), "loss", "total", "accuracy", "logits")  # curves that come first


def page(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    """HTML of less than 5 MB."""
    labels, keys = names(runs), list(rows[0])[1 : list(rows[0]).index(RESULTS)]
    told = []
    for label, row in zip(labels, rows, strict=True):
        settings = ", ".join(f"{key}={row[key]}" for key in keys if row[key] is not None)
        told.append(f"{label}: {settings}" if settings else label)
    title = f"Report of {labels[0]}" if len(runs) == 1 else f"Report of {len(runs)} runs"
    parts = [
        alarms(runs, labels),
        f'<section id="table"><h2>Results</h2>{table(rows, labels)}</section>',
        f'<section id="curves"><h2>Curves</h2>{legend(told)}{charts(runs, told)}</section>',
    ]
    here = Path(__file__)
    style, script = (here.with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    head = HEAD.format(title=escape(title), style=style, made=f"{time.strftime('%F %H:%M')}, ganduel {__version__}")
    foot = f"<script>{script}</script></main></body></html>\n"
    articles = [article(i, run, label) for i, (run, label) in enumerate(zip(runs, told, strict=True))]
    left = LIMIT - sum(len(text.encode()) for text in (head, foot, *parts, *articles)) - 10_000
    chosen = [pictures(run, max(2, min(PICTURES, 40 // len(runs)))) for run in runs]
    share = left // max(1, sum(map(len, chosen)))
    whole = "".join(text.replace(HERE, gallery(some, share), 1) for text, some in zip(articles, chosen, strict=True))
    return f'{head}{"".join(parts)}<section id="runs"><h2>Runs</h2>{whole}</section>{foot}'


def names(runs: Sequence[Run]) -> list[str]:
    """What tells the folders apart: their paths below the one that they share."""
    shared = os.path.commonpath([run.path.absolute().parent for run in runs])
    return [os.path.relpath(run.path.absolute(), shared) for run in runs]


def alarms(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """All of them, the first thing to see; "" where there are none."""
    lines = [
        f'<li><a href="#run{i}">{escape(label)}</a>: {_alarm(alarm)}</li>'
        for i, (run, label) in enumerate(zip(runs, labels, strict=True))
        for alarm in run.alarms
    ]
    return f'<section id="alarms" class="alarms"><h2>Alarms</h2><ul>{"".join(lines)}</ul></section>' if lines else ""


def _alarm(alarm: Row) -> str:
    when = f" at step {alarm['step']:,}" if isinstance(alarm.get("step"), int) else ""
    return f"<strong>{escape(str(alarm.get('alarm', 'alarm')))}</strong>{when}: {escape(str(alarm.get('message', '')))}"


def table(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """A line a run; what stands in the head sorts it."""
    columns = shown(rows)
    numeric = {name: all(isinstance(row[name], int | float | None) for row in rows) for name in columns}
    head = "".join(
        f'<th scope="col" data-kind="{"number" if numeric[name] else "text"}"><button>{escape(name)}</button></th>'
        for name in columns
    )
    lines = []
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        cells = [f'<th scope="row"><i class="swatch c{i % COLOURS}"></i><a href="#run{i}">{escape(label)}</a></th>']
        for name in columns[1:]:
            value = "" if row[name] is None else str(row[name])
            kind = "number" if numeric[name] else "text"
            cells.append(f'<td class="{kind}" data-value="{escape(value)}">{escape(cell(name, row[name]))}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<div class="wide" tabindex="0" role="region" aria-label="Results"><table id="results">'
        "<caption>One line a run; a click on the head of a column sorts by it. "
        "A dash: not set, or nothing of the kind.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def legend(labels: Sequence[str]) -> str:
    """Which colour is which run; a click hides its curves."""
    buttons = "".join(
        f'<button aria-pressed="true" data-run="{i}"><i class="swatch c{i % COLOURS}"></i>{escape(label)}</button>'
        for i, label in enumerate(labels)
    )
    note = (
        "Over images seen. Points are means of the time around them. Dashed: on held-out images. Faint: where the line "
        "is an average over a longer time."
    )
    return f'<p>{note}</p><div class="legend" role="group" aria-label="Runs shown">{buttons}</div>'


def charts(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """One for every quantity that any run has written down."""
    quantities = sum(len(rows[-1]) for run in runs for rows in (run.metrics, run.stats) if rows)
    most = max(20, min(60, CURVES // (POINT * max(1, quantities))))
    found: dict[str, list] = {}
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        for name, some in [*curves(run.metrics, i, label, most).items(), *curves(run.stats, i, label, most).items()]:
            found.setdefault(name, []).extend(some)
    figures = [
        f"<figure><figcaption>{escape(name)}</figcaption>{chart(name, found[name])}</figure>"
        for name in sorted(found, key=_place)
    ]
    return f'<div class="charts">{"".join(figures)}</div>' if figures else "<p>Nothing has been written down yet.</p>"


def _place(name: str) -> tuple[int, str]:
    return next((i for i, first in enumerate(FIRST) if name.startswith(first)), len(FIRST)), name


HERE = "<!-- pictures -->"


def article(number: int, run: Run, label: str) -> str:
    """What one run was set to and showed, but for its pictures."""
    typed = " ".join(f"{key}={value}" for key, value in run.typed.items()) or "nothing was set"
    warned = "".join(f"<li>{_alarm(alarm)}</li>" for alarm in run.alarms)
    config = "\n".join(f"{key}: {value}" for key, value in run.config.items())
    return (
        f'<article id="run{number}"><h3><i class="swatch c{number % COLOURS}"></i>{escape(label)}</h3>'
        f"<p><code>{escape(typed)}</code></p>"
        + (f'<ul class="alarms">{warned}</ul>' if warned else "")
        + f"{HERE}<details><summary>All settings</summary><pre>{escape(config)}</pre></details></article>"
    )


def pictures(run: Run, most: int) -> list[tuple[str, Path]]:
    """(caption, file) of real images, of `most` times of training, evenly chosen, and of what D made of the last."""
    folder = run.path / "samples"
    grids = sorted(folder.glob("[0-9]*kimg.png"), key=kimg)
    if len(grids) > most:
        grids = [grids[round(i * (len(grids) - 1) / (most - 1))] for i in range(most)]
    found = [("real images", folder / "reals.png")] if (folder / "reals.png").exists() else []
    found += [(f"{1000 * kimg(path):,.0f} images seen", path) for path in grids]
    judged = sorted((folder / "histograms").glob("[0-9]*kimg.png"), key=kimg)
    return found + [("what D makes of real and fake images", path) for path in judged[-1:]]


def gallery(chosen: Sequence[tuple[str, Path]], share: int) -> str:
    """Pictures in the page itself, `share` bytes of it each."""
    figures = []
    for caption, path in chosen:
        if encoded := embedded(path, share - 300):
            address, width, height = encoded
            broad = ' class="broad"' if width > 2 * height else ""
            figures.append(
                f'<figure><img{broad} src="{address}" width="{width}" height="{height}" alt="{escape(caption)}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
    return f'<div class="gallery">{"".join(figures)}</div>' if figures else "<p>No pictures yet.</p>"


def embedded(path: Path, most: int) -> tuple[str, int, int] | None:
    """A picture as an address of `most` bytes that holds all of it, and its width and height, made as much smaller as
    that takes. None where it cannot be read, or there is no room."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError:
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


HEAD = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<link rel="icon" href="data:,"><title>{title}</title>
<style>{style}</style></head>
<body><header><h1>{title}</h1><p>{made}</p>
<nav aria-label="Sections"><a href="#table">Results</a> <a href="#curves">Curves</a> <a href="#runs">Runs</a></nav>
</header>
<main>
"""
