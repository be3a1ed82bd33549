"""What the user reads: messages on stderr, results on stdout. Every foreign text is made printable here."""

import codecs
import contextlib
import importlib.util
import io
import os
import re
import sys
from typing import IO, Any

from tqdm import tqdm

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
    """A text stream that never fails: once nobody reads it any more (a closed terminal or pipe, a full disk), what is
    written to it is lost. So the end of a terminal does not end a run.
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


def progress(**settings: Any) -> tqdm:
    """A progress bar with tqdm's arguments, in a terminal or a notebook. Elsewhere it is silent: bars clutter logs."""
    if in_notebook() and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as widget

        return widget(**settings)
    return tqdm(disable=not (in_notebook() or sys.stderr.isatty()), **settings)
