"""The entry points of all commands. They prepare for signals before anything else is imported, Hydra included."""

import os
import signal
import sys
from functools import partial
from typing import NoReturn


def _start(name: str) -> NoReturn:
    """Run a command on the arguments of this process, and end it."""
    open_streams()
    early_signals(name)
    from ganduel.commands import cli

    sys.exit(cli.command(name, sys.argv[1:]))


def open_streams() -> None:
    """Open the null device in place of each standard stream that is closed, as under `2>&-` and some daemons.

    Otherwise Python has no stream to write to, and the next file that is opened gets the stream's number: whatever a
    library prints there would end up in that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one
            setattr(sys, name, os.fdopen(opened, "w" if number else "r", errors="backslashreplace"))


def early_signals(name: str) -> None:
    """Prepare for signals in the seconds in which Hydra and PyTorch are imported, and there is nothing to save.

    Ctrl-C then ends the process at once, without a traceback from the middle of an import; `cli.run` brings its
    exception back. The signals that ask a run to save and to go on do nothing.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in (getattr(signal, other, None) for other in ("SIGUSR1", "SIGUSR2") if name == "train"):
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


# The entry points. Python does not take "import" as a name.
NAMES = "train", "sample", "fid", "data", "export", "import", "report"
train, sample, fid, data, export, import_weights, report = (partial(_start, name) for name in NAMES)
