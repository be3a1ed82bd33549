"""Messages to the user. They go to stderr, because stdout is for results."""

import sys
from typing import Any

from tqdm import tqdm


def say(text: str) -> None:
    """Print one message, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def progress(**settings: Any) -> tqdm:
    """A progress bar with tqdm's arguments. It is silent if stderr is not a terminal, because bars clutter logs."""
    return tqdm(disable=not sys.stderr.isatty(), **settings)
