"""Messages to the user. They go to stderr, because stdout is for results."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

BAR_WIDTH = 10  # columns of the bar itself; a terminal must have seven times as many


def say(text: str) -> None:
    """Print one message, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def printable(name: str) -> str:
    """A foreign name as one line that is safe for a terminal: what is not printable becomes an escape such as \\x1b."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def program(name: str) -> str:
    """How the user's shell starts a program of this environment, such as gan-sample.

    By its name alone, if the shell finds this environment's; by its path, if the environment is not activated.
    """
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not own.exists() or (found and os.path.samefile(found, own)):
        return name
    return os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)


def progress(kind: type[tqdm] = tqdm, **settings: Any) -> tqdm:
    """A progress bar with tqdm's arguments. It is silent if stderr is not a terminal, because bars clutter logs."""
    return kind(disable=not sys.stderr.isatty(), **settings)


class Bar(tqdm):
    """A progress bar that fits the terminal.

    Its postfix holds notes with two spaces between them, the most important first. It shows as many as fit.
    """

    def __str__(self) -> str:
        now = self.format_dict
        notes = now["postfix"].split("  ") if now["postfix"] else []
        rate = now["rate"] or ((now["n"] - now["initial"]) / now["elapsed"] if now["elapsed"] else 0)
        left = (now["total"] - now["n"]) / rate if rate else None
        return bar_line(now["n"], now["total"], left, notes, now["ncols"] or 80)


def bar_line(done: int, total: int, seconds: float | None, notes: Sequence[str], columns: int) -> str:
    """A line of progress that is shorter than `columns`: numbers, as many notes as fit, and a bar if there is room.

    `seconds` is how long the rest takes; None if unknown.
    """
    share = done / total if total else 1.0
    left = [] if seconds is None else [f"{tqdm.format_interval(seconds)} left"]
    drawn = BAR_WIDTH if columns >= 7 * BAR_WIDTH else 0
    bar = f" {'#' * round(share * drawn):-<{drawn}}" if drawn else ""
    line = f"{share:4.0%}{bar}"
    for note in (f"{done:,}/{total:,}", *left, *notes):
        if len(line) + 2 + len(note) < columns:  # a terminal may wrap a full line
            line += f"  {note}"
    return line
