"""Read run folders (config.yaml, overrides.txt, stats.jsonl, metrics.jsonl), and make rows and a Markdown table."""

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ganduel.config.keys import leaves, spelt
from ganduel.config.schema import FEATURES, METRICS, PLAIN, Train, marked
from ganduel.system.errors import UserError
from ganduel.system.files import parsing, read_configuration, read_rows
from ganduel.system.terminal import say

Row = dict[str, Any]
"""Column -> value of one run."""

ASIDE = marked("aside", Train)  # settings that reports leave out


@dataclass
class RunLog:
    """The content of a run folder."""

    path: Path
    config: dict[str, Any]  # dotted key -> value
    typed: dict[str, str]  # key -> value, as typed on the command line
    stats: list[Row]  # one row per log interval; "alarms" maps names to messages, if there were any
    metrics: list[Row]  # one row per measurement during training
    alarms: list[Row]  # with the keys alarm, message, step, images


def find(folders: list[Path]) -> list[Path]:
    """All run folders among `folders` and inside them. The runs of a sweep are in the order of their numbers.

    Raises UserError if there is none, or none in one of the folders.
    """
    if not folders:
        raise UserError("which runs? Name their folders, or that of a sweep: gan-report runs/a runs/b")
    found = []
    for folder in folders:
        runs = [path.parent for path in folder.rglob("config.yaml")]
        if not runs:
            raise UserError(f"runs={folder} is no run folder and contains none; give folders that gan-train wrote")
        found += sorted(runs, key=_naturally)
    return found


def _naturally(path: Path) -> list[tuple[str, int]]:
    """A sort key that puts 10 after 9."""
    return [("", int(name)) if name.isdecimal() else (name, 0) for name in path.parts]


def read(path: Path) -> RunLog:
    """Read the files that a run has written so far. Leaves out damaged lines and files, with a warning."""
    stats = _rows(path / "stats.jsonl")
    alarms = [
        {"alarm": name, "message": str(text), "step": row["step"], "images": row["images"]}
        for row in stats
        if isinstance(told := row.get("alarms"), dict)
        for name, text in told.items()
    ]
    config: Any = {}
    typed: list[str] = []
    try:
        config = dict(leaves(read_configuration(path / "config.yaml")))
    except UserError as error:
        say(f"warning: {error}")
    try:
        with parsing(path / "overrides.txt", "what was typed"):
            typed = (path / "overrides.txt").read_text(encoding="utf-8").splitlines()
    except UserError as error:
        say(f"warning: {error}")
    return RunLog(
        path,
        config,
        {key.lstrip("+"): value for key, _, value in (line.partition("=") for line in typed)},
        stats,
        [row for row in _rows(path / "metrics.jsonl") if row.get("by") == "gan-train"],
        alarms,
    )


def version(folders: list[Path]) -> str:
    """A text that changes whenever a run in these folders writes something that a report shows. Raises UserError."""
    names = ("config.yaml", "stats.jsonl", "metrics.jsonl", "samples", "samples/histograms")
    files = [run / name for run in find(folders) for name in names]
    known = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files if path.exists()]
    return hashlib.sha256(repr(known).encode()).hexdigest()


def _rows(path: Path) -> list[Row]:
    """The rows of a .jsonl file. Columns that hold numbers (see `_measures`) lose all other values."""
    try:
        with parsing(path, "a log"):
            found, bad = read_rows(path)
    except UserError as error:
        say(f"warning: {error}")
        return []
    rows, wrong = [], len(bad)
    for row, _ in found:
        if "images" not in row:
            wrong += 1
            continue
        kept = {key: value for key, value in row.items() if not _measures(key) or type(value) in (int, float)}
        wrong += kept.keys() != row.keys()
        rows.append(kept)
    if wrong:
        say(f"warning: {path}: {wrong} damaged lines; what is wrong in them is left out")
    return rows


def _measures(key: str) -> bool:
    """Whether a column holds numbers: it has a slash in its name, or is called like a metric's value."""
    named = [*(name for name, _ in METRICS.values()), *PLAIN["modes"]]
    return "/" in key or any(key.startswith(name) for name in named)


def differing_settings(runs: list[RunLog]) -> list[Row]:
    """The settings that differ between runs, one row per run: typed ones or, if these are all equal, any others.

    None means that the run does not have the setting.
    """

    def value(run: RunLog, key: str) -> Any:
        if key in run.config:
            found = run.config[key]
            if found is None or isinstance(found, bool | list):
                return spelt(found)
            return "[]" if found == {} else found
        return run.typed.get(key, run.config.get(f"{key}.name"))  # a group: the typed option, else its own name

    def differing(of: str) -> list[str]:
        keys = dict.fromkeys(key for run in runs for key in getattr(run, of) if not key.startswith(ASIDE))
        return [key for key in keys if len({str(value(run, key)) for run in runs}) > 1]

    columns = differing("typed") or differing("config")
    return [{key: value(run, key) for key in columns} for run in runs]


RESULTS = "fid, best"  # the first column of results, after the settings


def compared(runs: Sequence[RunLog]) -> dict[str, int]:
    """The names of the metrics' values to compare runs by; 1 if less is better, -1 if more is better.

    Values with plain names are always among them. Values of other feature extractors are if any run has them.
    """
    every = {name + suffix: sign for suffix in FEATURES.values() for name, sign in METRICS.values()}
    always = {name for name, _ in METRICS.values()}
    found = {name for run in runs for measured in run.metrics for name in measured}
    return {name: sign for name, sign in every.items() if name in always | found}


def results(run: RunLog, values: dict[str, int]) -> Row:
    """The results of a run: metrics, D's accuracy and G's loss on held-out images, its speed and its alarms.

    `compared` returns `values`, the names of the metrics. "time" is the training time in seconds. None means that the
    run does not have the value.
    """
    row: Row = {}
    for name, sign in values.items():
        found = [measured[name] for measured in run.metrics if name in measured]
        best = min if sign > 0 else max
        row |= {f"{name}, best": best(found, default=None), f"{name}, last": found[-1] if found else None}
    for name, prefix, best in (("accuracy of D", "validation/accuracy/", max), ("loss of G", "validation/loss/G", min)):
        found = held_out(run, prefix)
        row |= {f"{name}, average": statistics.mean(found) if found else None}
        row |= {f"{name}, best": best(found, default=None)}
    timed = [line for line in run.stats if line.get("speed/images_per_second", 0) > 0]
    speeds = [line["speed/images_per_second"] for line in timed]
    seen = [0, *(line["images"] for line in timed)]
    return row | {
        "steps": run.stats[-1]["step"] if run.stats else 0,
        "images/s": statistics.median(speeds) if speeds else None,
        "alarms": len(run.alarms) or None,
        "time": sum((b - a) / speed for a, b, speed in zip(seen, seen[1:], speeds, strict=False)),
    }


def over_seeds(runs: Sequence[RunLog], rows: Sequence[Row]) -> list[Row]:
    """The last value of every metric, as mean and standard error over runs that differ only in their seeds.

    `rows` are the settings and results of each run. There is one row for each group of runs, with its settings; the
    standard error of a single run is unknown. [] if no two runs differ only in their seeds.
    """
    keys = [key for key in list(rows[0])[1 : list(rows[0]).index(RESULTS)] if key not in ("seed", "name")]
    groups: dict[tuple[Any, ...], list[RunLog]] = {}
    for run, settings in zip(runs, rows, strict=True):
        if run.metrics:
            groups.setdefault(tuple(settings[key] for key in keys), []).append(run)
    if max(map(len, groups.values()), default=0) < 2:
        return []
    names = dict.fromkeys(
        name for run in runs for name, value in (run.metrics or [{}])[-1].items() if _measures(name) and "/" not in name
    )
    found = []
    for own, some in groups.items():
        row: Row = {**dict(zip(keys, own, strict=True)), "runs": len(some)}
        for name in names:
            values = [run.metrics[-1][name] for run in some if name in run.metrics[-1]]
            row[name] = _mean_and_error(values) if values else None
        found.append(row)
    return found


def _mean_and_error(values: Sequence[float]) -> str:
    """The mean of values and its standard error, as text."""
    error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.2g}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4g}{error}"


def held_out(run: RunLog, prefix: str) -> list[float]:
    """The mean of all values whose names begin with `prefix`, for every row of statistics that has any.

    So it is a mean over real and fake images and over duels.
    """
    found = [[value for name, value in line.items() if name.startswith(prefix)] for line in run.stats]
    return [statistics.mean(values) for values in found if values]


def shown(rows: Sequence[Row]) -> list[str]:
    """The columns with a value in at least one row."""
    return [name for name in rows[0] if any(row[name] is not None for row in rows)]


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table with one line for each run."""
    columns = shown(rows)
    sides = ["---:" if isinstance(rows[0][name], int | float | None) else "---" for name in columns]
    lines = [columns, sides, *([cell(name, row[name]).replace("|", "\\|") for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(name: str, value: Any) -> str:
    """A value as text for people."""
    if value is None:
        return "-"
    if name == "time":
        return str(timedelta(seconds=round(min(value, 1e12))))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
