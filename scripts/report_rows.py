"""List every row of the tables and figures in docs/reports, and check that its recipe or command works.

    python scripts/report_rows.py

A command works if its configuration composes: the experiment and all keys exist. If a row fails, the script names it
and exits with 1.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ganduel.commands.cli import read
from ganduel.config.compose import check_sweep, compose
from ganduel.system.errors import UserError

PAGES = Path(__file__).parents[1] / "docs" / "reports"


class Row(NamedTuple):
    report: str  # the page's name: r0, ...
    kind: str  # recipe or figure; a figure may be a curve or a file of a run, and then needs no command
    what: str
    commands: list[str]


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
                yield Row(page.stem, kind, what, re.findall(r"`(gan-[^`]+)`", command))
            kind = kind or cells[0] if cells else kind if line.startswith("|--") else ""


def faults(row: Row) -> list[str]:
    """The reasons why a row fails; [] if it works."""
    if row.kind == "recipe" and not row.commands:
        return ["no command"]
    return [f"{command}: {wrong}" for command in row.commands if (wrong := fault(command))]


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
