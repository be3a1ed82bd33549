"""What run folders say: config.yaml, overrides.txt, stats.jsonl and metrics.jsonl; and the rows and the
Markdown table made of them."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ganduel.config import leaves
from ganduel.errors import UserError
from ganduel.schema import FEATURES, METRICS

Row = dict[str, Any]
"""Column -> value of one run."""

# Settings that make no other experiment and say nothing to a reader.
ASIDE = (
    "accept_changes",
    "allow",
    "data.cache_gb",
    "data.packed",
    "data.root",
    "data.source.root",
    "data.stream",
    "every",
    "json",
    "keep",
    "name",
    "overwrite",
    "runs_dir",
    "workers",
)


@dataclass
class Run:
    """What a run folder says."""

    path: Path
    config: dict[str, Any]  # dotted key -> value
    typed: dict[str, str]  # key -> value, as on the command line
    stats: list[Row]  # one a log interval; with alarms, by name, where there were any
    metrics: list[Row]  # one a measurement during training
    alarms: list[Row]  # what went wrong: alarm, message, step, images


def find(folders: list[Path]) -> list[Path]:
    """The run folders among these and in them, numbered ones of a sweep in their order."""
    if not folders:
        raise UserError("which runs? Name their folders, or that of a sweep: gan-report runs/a runs/b")
    found = []
    for folder in folders:
        runs = [path.parent for path in folder.rglob("config.yaml")]
        if not runs:
            raise UserError(f"runs={folder} is no run folder, and none is in it; it takes what gan-train left behind")
        found += sorted(runs, key=_naturally)
    return found


def _naturally(path: Path) -> list[tuple[str, int]]:
    """10 after 9."""
    return [("", int(name)) if name.isdecimal() else (name, 0) for name in path.parts]


def read(path: Path) -> Run:
    """Whatever a run has written so far."""
    stats = _lines(path / "stats.jsonl")
    alarms = [
        {"alarm": name, "message": text, "step": row["step"], "images": row["images"]}
        for row in stats
        for name, text in row.get("alarms", {}).items()
    ]
    config: Any = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
    typed = (path / "overrides.txt").read_text(encoding="utf-8").splitlines()
    return Run(
        path,
        dict(leaves(config)),
        {key.lstrip("+"): value for key, _, value in (line.partition("=") for line in typed)},
        stats,
        [row for row in _lines(path / "metrics.jsonl") if row.get("by") == "gan-train"],
        alarms,
    )


def _lines(path: Path) -> list[Row]:
    """The last line may still be on its way."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def settings(runs: list[Run]) -> list[Row]:
    """What was typed differently; where nothing was, whatever else differs. None for what a run was not told and does
    not have."""

    def value(run: Run, key: str) -> Any:
        if key in run.config:
            found = run.config[key]
            return "null" if found is None else "[]" if found == {} else found
        return run.typed.get(key, run.config.get(f"{key}.name"))  # a group's choice: what it calls itself, if untyped

    def differing(of: str) -> list[str]:
        keys = dict.fromkeys(key for run in runs for key in getattr(run, of) if not key.startswith(ASIDE))
        return [key for key in keys if len({str(value(run, key)) for run in runs}) > 1]

    columns = differing("typed") or differing("config")
    return [{key: value(run, key) for key in columns} for run in runs]


RESULTS = "fid, best"  # the first column of results, behind the settings


def compared(runs: Sequence[Run]) -> dict[str, int]:
    """The values by which runs compare, and whether less (1) or more (-1) is better: those of every metric, and of
    other features those that any run has."""
    every = {name + suffix: sign for suffix in FEATURES.values() for name, sign in METRICS.values()}
    bare = {name for name, _ in METRICS.values()}
    found = {name for run in runs for measured in run.metrics for name in measured}
    return {name: sign for name, sign in every.items() if name in bare | found}


def results(run: Run, values: dict[str, int]) -> Row:
    """These values; what held-out images made of D and G; how far it came, how fast and in how many seconds. None for
    what it does not have."""
    row: Row = {}
    for name, sign in values.items():
        found = [measured[name] for measured in run.metrics if name in measured]
        best = min if sign > 0 else max
        row |= {f"{name}, best": best(found, default=None), f"{name}, last": found[-1] if found else None}
    for name, prefix, best in (("accuracy of D", "validation/accuracy/", max), ("loss of G", "validation/loss/G", min)):
        found = held_out(run, prefix)
        row |= {f"{name}, average": statistics.mean(found) if found else None}
        row |= {f"{name}, best": best(found, default=None)}
    speeds = [line["speed/images_per_second"] for line in run.stats]
    seen = [0, *(line["images"] for line in run.stats)]
    return row | {
        "steps": run.stats[-1]["step"] if run.stats else 0,
        "images/s": statistics.median(speeds) if speeds else None,
        "alarms": len(run.alarms) or None,
        "time": sum((b - a) / speed for a, b, speed in zip(seen, seen[1:], speeds, strict=False)),
    }


def held_out(run: Run, prefix: str) -> list[float]:
    """The mean of what begins so, over real and fake images and over duels, in every line that has it."""
    found = [[value for name, value in line.items() if name.startswith(prefix)] for line in run.stats]
    return [statistics.mean(values) for values in found if values]


def shown(rows: Sequence[Row]) -> list[str]:
    """The columns that are not empty in all rows."""
    return [name for name in rows[0] if any(row[name] is not None for row in rows)]


def markdown(rows: Sequence[Row]) -> str:
    """A table with a line a run."""
    columns = shown(rows)
    sides = ["---:" if isinstance(rows[0][name], int | float | None) else "---" for name in columns]
    lines = [columns, sides, *([cell(name, row[name]).replace("|", "\\|") for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(name: str, value: Any) -> str:
    """A value as one reads it."""
    if value is None:
        return "-"
    if name == "time":
        return str(timedelta(seconds=round(value)))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
