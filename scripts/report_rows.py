"""List every row of the tables and figures in docs/reports, and check that its recipe or command works.

    python scripts/report_rows.py

A command works if its configuration composes: the experiment and all keys exist. A figure is of a run that a recipe of
the same page makes, and that run has what the figure shows. If a row fails, the script names it and exits with 1.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ganduel.commands.cli import read
from ganduel.config.compose import check_sweep, compose
from ganduel.config.keys import parse
from ganduel.config.schema import Train
from ganduel.report.figures import FIGURES
from ganduel.system.errors import UserError

PAGES = Path(__file__).parents[1] / "docs" / "reports"
MODES = ("grid", "interpolate", "mix", "translate")  # of gan-sample, which only some models can draw


class Row(NamedTuple):
    report: str  # the page's name: r0, ...
    kind: str  # recipe or figure; a figure may be a file of a run, and then needs no command
    what: str
    commands: list[str]
    runs: list[str]  # runs that the row names, as runs/NAME
    drawn: list[str]  # figures of gan-report that the row names, as NAME.svg


def rows(pages: Path) -> Iterator[Row]:
    """Yield the rows of all tables whose first column is "recipe" or "figure".

    The columns are (command, description, ...) for "recipe" and (description, command) for "figure".
    """
    for page in sorted(pages.glob("r[0-9]*.md")):
        kind = ""  # the first column's name in the current table
        for line in page.read_text().splitlines():
            cells = [cell.strip() for cell in line.split("|")[1:-1]] if line.startswith("| ") else []
            if kind in ("recipe", "figure") and cells:
                command, what = cells[:2] if kind == "recipe" else cells[1::-1]
                named = re.findall(r"\bruns/([\w./-]*\w)", command)
                drawn = re.findall(r"`[\w/]*?(\w+)(?:-[\w.-]+)?\.svg`", command)
                yield Row(page.stem, kind, what, re.findall(r"`(gan-[^`]+)`", command), named, drawn)
            kind = kind or cells[0] if cells else kind if line.startswith("|--") else ""


def made(found: Sequence[Row]) -> dict[str, dict[str, Train]]:
    """Report -> run -> its configuration, for all runs that the recipes of the report's page make.

    A sweep stands for its folder, with the configuration that its jobs start from.
    """
    runs: dict[str, dict[str, Train]] = {}
    for row in found:
        for command in row.commands if row.kind == "recipe" else []:
            if command.startswith("gan-train ") and not fault(command):
                line = read("train", shlex.split(command)[1:])
                config = compose("train", [first(override) for override in line.overrides])
                runs.setdefault(row.report, {})[config.name + ("-sweep" if line.sweep else "")] = config
    return runs


def first(override: str) -> str:
    """An override with the first of its values, if it sweeps over several."""
    (parsed,) = parse([override])
    if not parsed.is_sweep_override():
        return override
    return f"{parsed.key_or_group}={next(iter(parsed.sweep_string_iterator()))}"


def faults(row: Row, runs: Mapping[str, Mapping[str, Train]]) -> list[str]:
    """The reasons why a row fails; [] if it works. `runs` is what `made` returns."""
    wrong = [f"{command}: {reason}" for command in row.commands if (reason := fault(command))]
    if row.kind == "recipe" and not row.commands:
        return ["no command"]
    if row.kind == "figure" and not row.runs:
        return [*wrong, "names no run, as runs/NAME"]
    known = runs.get(row.report, {})
    for name in row.runs:
        config = next((config for run, config in known.items() if name == run or name.startswith(f"{run}/")), None)
        if config is None:
            wrong.append(f"runs/{name}: no recipe of this page makes that run")
        elif row.kind == "figure":
            wrong += [
                f"runs/{name}: {reason}" for command in row.commands if (reason := lacking(command, row.drawn, config))
            ]
    return wrong


def lacking(command: str, drawn: list[str], config: Train) -> str | None:
    """What a run does not have of the figures that a command makes; None if it has all."""
    _, *arguments = shlex.split(command)
    words = dict(word.partition("=")[::2] for word in arguments)
    if "figures" in words and not drawn:
        return "names no file of the figures, as losses.svg"
    for figure in drawn if "figures" in words else []:
        if figure not in FIGURES:
            return f"there is no figure {figure}: {', '.join(FIGURES)}"
        metric = {"fid": "fid", "collapse": "successive"}.get(figure)
        if metric and metric not in config.metric.which:
            return f"the figure {figure} needs metric.which={metric}"
        if figure == "accuracy" and str(config.loss["_target_"]).endswith((".wasserstein", ".relativistic")):
            return "its loss has no accuracy"
        if figure == "terms" and not config.model.get("cycle") and not config.regularizer:
            return "it has no losses but those of G and D"
    generator: dict[str, Any] = config.model.get("generator", {})
    mapped = bool(generator.get("mapping")) or "mapping_layers" in generator
    if words.get("mode.space") == "w" and not mapped:
        return "it has no w: its model has no mapping network"
    if (words.get("mode") == "translate") != bool(config.model.get("cycle")) and words.get("mode") in MODES:
        return f"mode={words['mode']} is not for its model"
    return None


def fault(command: str) -> str | None:
    """The reason why a command, as typed in a shell, does not compose; None if it composes."""
    program, *arguments = shlex.split(command)
    name = program.removeprefix("gan-")
    try:
        line = read(name, arguments)
        if line.sweep:
            check_sweep(name, line.overrides)
        else:
            compose(name, line.overrides)
    except (UserError, ValueError) as error:
        return str(error)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="?", type=Path, default=PAGES, help="another folder of such pages")
    found = list(rows(parser.parse_args().pages))
    failed, runs = 0, made(found)
    for row in found:
        wrong = faults(row, runs)
        failed += bool(wrong)
        print(f"{row.report}  {row.kind:6}  {row.what}")
        for line in wrong:
            print(f"error: {row.report}: {row.what}: {line}", file=sys.stderr)
    print(f"{len(found)} rows, {failed} without a recipe")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
