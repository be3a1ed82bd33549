"""Text for the user: messages on stderr, results on stdout. This module makes every foreign text printable."""

import codecs
import contextlib
import importlib.util
import io
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

BAR_WIDTH = 10  # columns of the bar itself; a terminal must have seven times as many
LONGEST = 2000  # characters of a line that is printed; a foreign name may have millions


def in_notebook() -> bool:
    """Whether the kernel of a notebook runs this process."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def say(text: str) -> None:
    """Print one message, above the progress bar if there is one. Its lines are made printable.

    It goes to stderr, but not in notebooks, which colour stderr as errors.
    """
    lines = [printable(line) for line in text.split("\n")]
    if sys.stderr.isatty():
        lines = [re.sub(r"^(\s*)(warning:)", "\\1\033[1m\\2\033[0m", line) for line in lines]
    tqdm.write("\n".join(lines), file=sys.stdout if in_notebook() else sys.stderr)


class Steady:
    """A text stream that never fails. If nobody can read it any more (a closed terminal or pipe, a full disk), it drops
    all further text. So the end of a terminal does not end a run.
    """

    def __init__(self, stream: IO[str]):
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Send the rest to the null device, or Python would fail once more when it ends and flushes its streams."""
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def tell(text: str) -> None:
    """Print a result on stdout. A path gets the bytes that it has on the disk, whatever stdout's encoding is."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=AS_BYTES)
    print(text)


def printable(text: str) -> str:
    """A foreign text as one line that is safe for a terminal.

    What is not printable becomes an escape such as \\x1b. The middle of a text above `LONGEST` characters is left out.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 200]} ... {text[-200:]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _as_bytes(error: UnicodeError) -> tuple[bytes, int]:
    """A handler of letters that stdout's encoding lacks, or that stand for bytes of a path."""
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    try:
        return os.fsencode(letters), error.end
    except UnicodeEncodeError:
        return letters.encode("ascii", "backslashreplace"), error.end


AS_BYTES = "ganduel.as_bytes"
codecs.register_error(AS_BYTES, _as_bytes)


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
    """A progress bar with tqdm's arguments, in a terminal or a notebook. Elsewhere it is silent: bars clutter logs.

    `kind` is the class of the bar in a terminal.
    """
    if in_notebook() and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as widget

        return widget(**settings)
    return kind(disable=not (in_notebook() or sys.stderr.isatty()), **settings)


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
