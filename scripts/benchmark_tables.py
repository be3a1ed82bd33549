"""Make the tables of docs/benchmarks.md from the JSON files of scripts/gpu_check.py.

    python scripts/benchmark_tables.py            # writes them into docs/benchmarks.md
    python scripts/benchmark_tables.py --check    # exit code 1 if they are not what is there

Reads docs/numbers/DATE-DEVICE/*.json; other JSON files there are left out. Every folder gives one section, with a table
for each part. The text between the marks of the page is replaced.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tables of scripts/benchmark_tables.py: begin -->", "<!-- end of these tables -->"
TITLES = {
    "numerics": "Gradients against the CPU's float32, the largest of a family's phases",
    "waiting": "Steps in which the host must not wait for the device",
    "captures": "Weights with CUDA graphs against those without",
    "collectives": "Weights of a group of one process, which averages its gradients, against those without averages",
    "profile": "Profile of every phase",
    "train": "Every family's default",
    "plain": "Against textbooks' loops",
    "speed": "Settings against the default",
    "quality": "Quality after equal numbers of images",
    "compile": "`compile=true` against the default",
}

LATE = "no time left"  # gpu_check's note for what it did not measure

Row = dict[str, Any]


def checks(folder: Path) -> Iterator[tuple[Row, list[Row]]]:
    """The machine and the rows of every result of gpu_check in a folder."""
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and {"machine", "rows"} <= content.keys():
            yield content["machine"], content["rows"]


def largest(rows: list[Row]) -> list[Row]:
    """Of the gradients' differences, the largest of each family and precision."""
    by_name = groupby(rows, lambda row: row["what"].partition(":")[0])
    return [max(some, key=lambda row: (row["value"] is None, row["value"])) | {"what": name} for name, some in by_name]


def cells(row: Row) -> tuple[str, ...]:
    value = row["value"]
    number = "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    failed = "**failed** " if row["ok"] is False else ""
    return row["what"], f"{number} {row['unit']}".strip(), (failed + row["note"].replace("|", "/")).strip()


def table(rows: list[Row]) -> str:
    missing = [row["what"] for row in rows if row["note"] == LATE]
    done = [row for row in rows if row["note"] != LATE]
    lines = ["| what | value | note |", "|---|---:|---|", *(f"| {' | '.join(cells(row))} |" for row in done)]
    late = [f"\nThere was no time for {', '.join(missing)}."] if missing else []
    return "\n".join([*(" ".join(line.split()) for line in lines), *late])


def section(folder: Path) -> str:
    """The section of one date and device; "" if the folder holds no results of gpu_check."""
    found = list(checks(folder))
    if not found:
        return ""
    date = folder.name[:10]
    about = found[0][0]
    versions = [f"PyTorch {about['torch']}", *(f"{k} {about[k]}" for k in ("cuda", "cudnn", "threads") if k in about)]
    parts = [f"### {date}, {about['device']}", f"{', '.join(versions)}. From `docs/numbers/{folder.name}`."]
    rows = [row for _, some in found for row in some]
    for part, title in TITLES.items():
        own = [row for row in rows if row["part"].partition(" ")[0] == part]
        if part == "speed":  # one measurement a family
            own = [row | {"what": f"`{row['part'].partition(' ')[2]}` {row['what']}"} for row in own]
        if own:
            parts += [f"**{title}**", table(largest(own) if part == "numerics" else own)]
    return "\n\n".join(parts)


def page(text: str, folders: list[Path]) -> str:
    """The page with new sections between its marks, the newest first."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"error: the page lacks {BEGIN} or {END}")
    sections = [made for folder in sorted(folders, reverse=True) if (made := section(folder))]
    return f"{before}{BEGIN}\n\n{chr(10).join(f'{made}{chr(10)}' for made in sections)}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--numbers", type=Path, default=ROOT / "docs" / "numbers")
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    text = given.page.read_text(encoding="utf-8")
    made = page(text, [path for path in given.numbers.iterdir() if path.is_dir()])
    if given.check and made != text:
        sys.exit(f"error: {given.page} has other tables than {given.numbers}: run python scripts/benchmark_tables.py")
    if not given.check:
        given.page.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
