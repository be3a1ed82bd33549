"""Messages to the user. They go to stderr, because stdout is for results."""

import importlib.util
import sys
from typing import Any

from tqdm import tqdm


def in_notebook() -> bool:
    """Whether the kernel of a notebook runs this process."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def say(text: str) -> None:
    """Print one message, above the progress bar if there is one. Notebooks colour stderr as errors, so not there."""
    tqdm.write(text, file=sys.stdout if in_notebook() else sys.stderr)


def printable(name: str) -> str:
    """A foreign name as one line that is safe for a terminal: what is not printable becomes an escape such as \\x1b."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def progress(**settings: Any) -> tqdm:
    """A progress bar with tqdm's arguments, in a terminal or a notebook. Elsewhere it is silent: bars clutter logs."""
    if in_notebook() and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as widget

        return widget(**settings)
    return tqdm(disable=not (in_notebook() or sys.stderr.isatty()), **settings)
