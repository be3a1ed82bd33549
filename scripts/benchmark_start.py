"""Measure how long commands need to start, against `python -c "import torch"`.

    python scripts/benchmark_start.py
    python scripts/benchmark_start.py --rounds 15 --models dcgan stylegan2_ada

Every round starts everything once, each in a process of its own. Prints medians and the range of the ratio within each
round: of the time, and of the processor time, which other programs hardly change. "cold" packs the data set first.
A run ends after its first step, so its time is a little longer than that to the first step.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TORCH = "import torch"
COMMANDS = "data", "sample", "fid", "export", "report"


def start(*arguments: str) -> tuple[float, float]:
    """Seconds that Python takes with these arguments: of the clock, and of the processor."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    taken = time.perf_counter() - begun, usage.ru_utime + usage.ru_stime
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: python {' '.join(arguments)} ended with {process.returncode}")
    return taken


def measured(models: list[str], folder: Path) -> dict[str, list[str]]:
    """What to start: a name, and Python's arguments."""
    found = {"torch": ["-c", TORCH], "gan-train --help": ["-c", called("train", "--help")]}
    found |= {f"gan-{command}": ["-c", f"import ganduel.commands.{command}"] for command in COMMANDS}
    for model in models:
        run = [f"model={model}", "data=digits", "duration=1 steps", "batch_size=8", "metric.which=[]"]
        run += [f"data.packed={folder}/{model}", f"runs_dir={folder}", "overwrite=true"]
        for heat in ("cold", "warm"):
            found[f"gan-train model={model}, first step, {heat}"] = ["-m", "ganduel.train", *run]
    return found


def called(command: str, *arguments: str) -> str:
    return f"import sys; from ganduel.commands import cli; sys.exit(cli.command({command!r}, {[*arguments]!r}))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=["dcgan"], help="families whose first step is measured")
    given = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {}
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for what, arguments in measured(given.models, Path(folder)).items():
                taken.setdefault(what, []).append(start(*arguments))
    print("| start | s | ratio | processor, s | ratio |\n|---|---:|---|---:|---|")
    for what, values in taken.items():
        cells = []
        for kind in (0, 1):
            ratios = [value[kind] / torch[kind] for value, torch in zip(values, taken["torch"], strict=True)]
            cells.append(f"{statistics.median(value[kind] for value in values):.2f}")
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
