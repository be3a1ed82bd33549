"""gan-report: compare runs on one page."""

import os
from pathlib import Path
from typing import Any

from ganduel.config.schema import Report
from ganduel.report.figures import draw
from ganduel.report.page import page
from ganduel.report.runs import (
    Row,
    RunLog,
    compared,
    differing_settings,
    find,
    markdown,
    over_seeds,
    read,
    results,
    version,
)
from ganduel.report.serve import serve
from ganduel.system.errors import UserError
from ganduel.system.files import make_folder, write_text
from ganduel.system.terminal import say


def main(config: Report, overrides: list[str]) -> dict[str, Any]:
    """Write the page and, into the folder `figures`, figures. Returns their paths, one row for each run, one for the
    runs of all seeds, and these rows as Markdown tables.

    With `watch`, it first serves the page until Ctrl-C. Raises UserError.
    """
    folders = [Path(folder) for folder in config.runs]
    mixed = any(folder.is_absolute() for folder in folders)  # absolute and relative paths have no common one
    around = os.path.commonpath([folder.absolute() if mixed else folder for folder in folders] or [Path()])
    out = Path(config.out) if config.out else Path(around) / "report.html"
    if out.suffix not in (".html", ".htm"):
        raise UserError(f"out={out}: the report is a page; give a name that ends in .html")
    if config.watch:
        serve(lambda: version(folders), lambda: page(*read_runs(folders), live=True), config.port)
    runs, rows = read_runs(folders)
    make_folder(out.parent, "out")
    write_text(out, page(runs, rows))
    say(f"report {out}")
    drawn = draw(runs, Path(config.figures)) if config.figures else []
    if drawn:
        say(f"figures {', '.join(str(path) for path in drawn if path.suffix == '.svg')}, and as .png")
    text, groups = markdown(rows), over_seeds(runs, rows)
    if groups:
        text += f"\n\nThe last metrics, mean ± standard error over seeds:\n\n{markdown(groups)}"
    return {
        "text": text,
        "out": str(out),
        "runs": rows,
        "over_seeds": groups,
        "figures": [str(path) for path in drawn],
    }


def read_runs(folders: list[Path]) -> tuple[list[RunLog], list[Row]]:
    """The runs in these folders, and the settings and results of each. Raises UserError if a folder has none."""
    runs = [read(path) for path in find(folders)]
    values, typed = compared(runs), differing_settings(runs)
    return runs, [{"run": str(run.path), **own, **results(run, values)} for run, own in zip(runs, typed, strict=True)]
