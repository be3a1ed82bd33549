"""Messages to the user. They go to stderr, because stdout is for results."""

import contextlib
import os
import sys
from typing import IO, Any

from tqdm import tqdm


def say(text: str) -> None:
    """Print one message, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


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


def printable(name: str) -> str:
    """A foreign name as one line that is safe for a terminal: what is not printable becomes an escape such as \\x1b."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def progress(**settings: Any) -> tqdm:
    """A progress bar with tqdm's arguments. It is silent if stderr is not a terminal, because bars clutter logs."""
    return tqdm(disable=not sys.stderr.isatty(), **settings)
