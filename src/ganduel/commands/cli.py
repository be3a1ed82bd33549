"""What all commands do with their arguments. PyTorch is imported only after these are parsed.

Exit codes: 0 for success, 1 for an error that the user can fix (one line on stderr), 2 for a command line that cannot
be parsed, and 128 plus the signal's number if a signal stopped the command.
"""

import errno
import importlib
import importlib.util
import json
import math
import os
import shlex
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, cast

from hydra._internal.utils import get_args_parser

from ganduel import __version__
from ganduel.commands.start import data, export, fid, import_weights, report, sample, train  # noqa: F401 (old scripts)
from ganduel.config.compose import check_sweep, compose, parts_of_its_own
from ganduel.config.help import help_text
from ganduel.config.keys import for_hydra, listed, own_options, parse
from ganduel.config.schema import LIST_KEYS
from ganduel.config.slips import answer, several_values
from ganduel.system.errors import Interrupted, UserError
from ganduel.system.terminal import Steady, printable, program, tell

# command -> (module with main(config, overrides), function from its result to the line that is printed)
COMMANDS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "train": ("ganduel.commands.train", lambda result: result["run"]),
    "sample": ("ganduel.commands.sample", lambda result: result["out"]),
    "fid": ("ganduel.commands.fid", lambda result: result["text"]),
    "data": ("ganduel.commands.data", lambda result: result["path"]),
    "export": ("ganduel.commands.export", lambda result: "\n".join(result["files"])),
    "import": ("ganduel.commands.import_weights", lambda result: _imported(**result)),
    "report": ("ganduel.commands.report", lambda result: result["text"]),
}

# command -> how to make it need less memory
LESS_MEMORY = {
    "train": "train a smaller model or with a smaller batch_size",
    "sample": "take fewer seeds or a smaller batch",
    "fid": "take a smaller metric.samples, or only metrics that keep no features, as metric.which=fid",
    "data": "pack with workers=1",
    "export": "export on a machine where nothing else runs",
    "import": "import on a machine where nothing else runs",
    "report": "report on fewer runs",
}


class Line(NamedTuple):
    """A command line, as it was read."""

    flags: list[str]  # those of Hydra
    overrides: list[str]  # for Hydra
    added: list[str]  # those overrides that nobody typed
    typed: list[str]  # the others as they were typed
    sweep: bool
    help: bool
    through_hydra: bool  # whether a flag asks for what only Hydra does


def read(name: str, arguments: Sequence[str]) -> Line:
    """Read a command line. Raises UserError, with the right line for what people often type instead, and ValueError."""
    if "#" in arguments:  # a comment that was copied: zsh takes it for arguments
        arguments = arguments[: list(arguments).index("#")]
    parser = get_args_parser()
    if told := answer(name, arguments, [flag for action in parser._actions for flag in action.option_strings]):
        raise UserError(told)
    quoted = [for_hydra(name, a, sweep=bool({"-m", "--multirun"} & {*arguments})) for a in arguments]
    found = _parsed(parser, quoted)
    flags = [a for a in quoted if a not in (*found.overrides, "--")]
    typed = [a for a, q in zip(arguments, quoted, strict=True) if q in found.overrides]
    overrides = listed("runs", found.overrides) if name == "report" else [*found.overrides]
    if loose := [a for a in overrides if "=" not in a and not a.startswith("~")]:
        raise ValueError(f"{loose[0]} has no value: keys and groups are typed as key=value")
    named = {str(override.key_or_group): override.value() for override in parse(overrides)}
    added: list[str] = []
    if found.config_dir:
        own = Path(found.config_dir) / "experiment" / f"{named.get('experiment')}.yaml"
        parts = [one for one in parts_of_its_own(own) if one.partition("=")[0] not in named]
        added = [own_options(found.config_dir), *parts]
        typed = [f"--config-dir={found.config_dir}", *typed]
    if name == "train" and "settings_from" in named:
        from ganduel.runs.again import again  # imports PyTorch

        overrides = again(overrides)
        typed = [*(a for a in typed if a.startswith("--config-dir=")), *overrides]
    here = "overrides", "run", "config_dir", "help"
    others = any(value for flag, value in vars(found).items() if flag not in here)
    return Line(flags, [*added, *overrides], added, typed, found.multirun, found.help, others)


def command(name: str, arguments: list[str]) -> int:
    """Run a command with its arguments. Returns the exit code."""
    with redirect_stderr(cast(IO[str], Steady(sys.stderr))):
        return _command(name, arguments)


def _command(name: str, arguments: list[str]) -> int:
    line = None
    try:
        if "--version" in arguments:
            print(f"ganduel {__version__}", flush=True)
            return 0
        try:
            line = read(name, arguments)
        except ValueError as error:
            return _fail(str(error), 2)
        if line.help:
            print(help_text(name, line.overrides), flush=True)
            return 0
        if line.through_hydra:
            if line.sweep:
                check_sweep(name, line.overrides)
            from ganduel.commands.sweep import through_hydra  # Hydra takes a third of a second

            return through_hydra(name, line.flags, line.overrides, line.added, perform, _fail)
        perform(name, compose(name, line.overrides), line.typed)
        return 0
    except UserError as error:
        return _fail(sweep_meant(name, line, str(error)) if line else str(error))
    except Interrupted as error:
        return error.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout has stopped, as with `| head`
        _unread()
        return 141
    except OSError as error:
        room = "; make room and run again" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        return _fail(f"{error.filename or name}: {error.strerror or error}{room}")
    except (MemoryError, RuntimeError) as error:
        from ganduel.system.device import out_of_memory  # imports PyTorch

        if not out_of_memory(error):
            raise
        return _fail(f"memory ran out; {LESS_MEMORY[name]}, or use a machine with more memory")


def sweep_meant(name: str, line: Line, error: str) -> str:
    """An error text, or a better one if it is about a key of a part that got several values and takes one."""
    for argument in line.typed:
        key, _, value = argument.partition("=")
        part = key.rpartition(".")[0]
        several = "," in value and f"{key}=[{value}]" in line.overrides and key not in LIST_KEYS[name]
        if several and error.startswith((key, f"{part}:")):
            return several_values(name, argument, line.typed)
    return error


def perform(name: str, settings: Any, overrides: list[str]) -> dict[str, Any]:
    """Run a command on a composed configuration. The first process prints the result. Raises UserError."""
    result = run(name, settings, overrides)
    if int(os.environ.get("RANK", 0)) == 0:
        try:
            tell(json.dumps(_finite(result), allow_nan=False) if settings.json else COMMANDS[name][1](result))
            sys.stdout.flush()
        except OSError:
            if name != "train":
                raise
            _unread()  # a run's result is in its folder, and the next job of a sweep does not end
    return result


def run(name: str, settings: Any, overrides: list[str]) -> dict[str, Any]:
    """Run a command on a composed configuration, and return its result. Raises UserError."""
    for package in getattr(settings, "allow", []):
        if not _installed(package):
            raise UserError(f"allow={package}: there is no such package; install it, or put its folder on PYTHONPATH")
    module = importlib.import_module(COMMANDS[name][0])
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    result: dict[str, Any] = module.main(settings, overrides)
    return result


def _unread() -> None:
    """Send the rest of stdout to the null device. Otherwise Python fails once more when it ends and flushes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _installed(package: str) -> bool:
    """Whether a package can be found. Nothing of it is imported, because that runs its code."""
    try:
        return importlib.util.find_spec(package.partition(".")[0]) is not None
    except (ImportError, ValueError):  # names that no package can have
        return False


def _finite(value: Any) -> Any:
    """A result without numbers that JSON lacks: NaN and infinity become None."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _imported(out: str, settings: list[str]) -> str:
    """Where the checkpoint lies, and the command that starts from it."""
    command = shlex.join([program("gan-train"), settings[0], f"init_from={out}", *settings[1:]])
    return f"{out}\nto start from it: {command}"


def _parsed(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Separate flags from overrides with Hydra's own parser. Raises ValueError."""

    def fail(message: str) -> NoReturn:
        raise ValueError(f"{message}; --hydra-help explains the flags")

    parser.error = fail  # type: ignore[method-assign]
    found = parser.parse_intermixed_args(arguments)
    if found.config_name or found.config_path:
        fail("--config-name and --config-path cannot be set; --config-dir adds a folder of your own")
    return found


def _fail(text: str, code: int = 1) -> int:
    """Print an error as one line. Returns the exit code."""
    print("error: " + printable(" ".join(text.split())), file=sys.stderr)
    return code
