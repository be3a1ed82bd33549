"""Every row of the reports' tables and figures (docs/reports), and whether there is a recipe or command for it.

    python scripts/report_rows.py

A row's recipe is there when the command in it composes: the experiment exists, and so do all of its keys. Exits 1, and
names the rows, where one is not.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ganduel.config.compose import check_sweep, compose
from ganduel.config.keys import listed, quote
from ganduel.system.errors import UserError

PAGES = Path(__file__).parents[1] / "docs" / "reports"


class Row(NamedTuple):
    report: str  # the page's name: r0, ...
    kind: str  # recipe, or figure: a figure may be a curve or a file that a run leaves, and need no command
    what: str
    commands: list[str]


def rows(pages: Path) -> Iterator[Row]:
    """The rows of all tables whose first column is called "recipe" (command, what it is, ...) or "figure" (what it is,
    command)."""
    for page in sorted(pages.glob("r[0-9]*.md")):
        kind = ""  # of the table that the line is in
        for line in page.read_text().splitlines():
            cells = [cell.strip() for cell in line.split("|")[1:-1]] if line.startswith("| ") else []
            if kind in ("recipe", "figure") and cells:
                command, what = cells[:2] if kind == "recipe" else cells[1::-1]
                yield Row(page.stem, kind, what, re.findall(r"`(gan-[^`]+)`", command))
            kind = kind or cells[0] if cells else kind if line.startswith("|--") else ""


def faults(row: Row) -> list[str]:
    """Why a row lacks its recipe; [] where nothing does."""
    if row.kind == "recipe" and not row.commands:
        return ["no command"]
    return [f"{command}: {wrong}" for command in row.commands if (wrong := fault(command))]


def fault(command: str) -> str | None:
    """What is wrong with a command as one types it; None where it composes."""
    program, *arguments = shlex.split(command)
    name = program.removeprefix("gan-")
    overrides = [quote(argument) for argument in arguments if not argument.startswith("-")]
    try:
        if "-m" in arguments:
            check_sweep(name, overrides)
        else:
            compose(name, listed("runs", overrides) if name == "report" else overrides)
    except UserError as error:
        return str(error)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="?", type=Path, default=PAGES, help="another folder of such pages")
    found = list(rows(parser.parse_args().pages))
    lacking = 0
    for row in found:
        wrong = faults(row)
        lacking += bool(wrong)
        print(f"{row.report}  {row.kind:6}  {row.what}")
        for line in wrong:
            print(f"error: {row.report}: {row.what}: {line}", file=sys.stderr)
    print(f"{len(found)} rows, {lacking} without a recipe")
    return 1 if lacking or not found else 0


if __name__ == "__main__":
    sys.exit(main())
