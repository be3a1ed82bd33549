"""Speaking to a person: everything goes to stderr, for stdout is for results."""

import sys
from typing import Any

from tqdm import tqdm


def say(text: str) -> None:
    """One message, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def progress(**settings: Any) -> tqdm:
    """A progress bar (tqdm's arguments); silent where stderr is no terminal, for logs are no place for bars."""
    return tqdm(disable=not sys.stderr.isatty(), **settings)
