"""The entry points of all commands. They prepare for signals before anything else is imported, Hydra included."""

import signal
import sys
from typing import NoReturn


def train() -> None:
    """Entry point of gan-train."""
    _start("train")


def sample() -> None:
    """Entry point of gan-sample."""
    _start("sample")


def fid() -> None:
    """Entry point of gan-fid."""
    _start("fid")


def data() -> None:
    """Entry point of gan-data."""
    _start("data")


def export() -> None:
    """Entry point of gan-export."""
    _start("export")


def import_weights() -> None:
    """Entry point of gan-import, which Python does not take as a name."""
    _start("import")


def report() -> None:
    """Entry point of gan-report."""
    _start("report")


def _start(name: str) -> NoReturn:
    """Run a command on the arguments of this process, and end it."""
    early_signals(name)
    from ganduel.commands import cli

    sys.exit(cli.command(name, sys.argv[1:]))


def early_signals(name: str) -> None:
    """Prepare for signals in the seconds in which Hydra and PyTorch are imported, and there is nothing to save.

    Ctrl-C then ends the process at once, without a traceback from the middle of an import; `perform` brings its
    exception back. What asks a run to save, and then to go on, does nothing.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in (getattr(signal, other, None) for other in ("SIGUSR1", "SIGUSR2") if name == "train"):
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)
