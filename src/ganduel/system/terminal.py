"""Messages to the user. They go to stderr, because stdout is for results."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm


def say(text: str) -> None:
    """Print one message, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def printable(name: str) -> str:
    """A foreign name as one line that is safe for a terminal: what is not printable becomes an escape such as \\x1b."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def program(name: str) -> list[str]:
    """The words that start a program of this environment in the user's shell, such as gan-sample.

    The name alone, if the shell finds this environment's; its path, if the environment is not activated.
    """
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not own.exists() or (found and os.path.samefile(found, own)):
        return [name]
    return [os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)]


def progress(**settings: Any) -> tqdm:
    """A progress bar with tqdm's arguments. It is silent if stderr is not a terminal, because bars clutter logs."""
    return tqdm(disable=not sys.stderr.isatty(), **settings)
