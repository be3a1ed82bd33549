"""The entry points of all commands. PyTorch is imported only after the arguments are parsed.

Exit codes: 0 for success, 1 for an error that the user can fix (one line on stderr), 2 for a command line that cannot
be parsed, and 128 plus the signal's number if a signal stopped the command.
"""

import importlib
import json
import math
import os
import shlex
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ganduel import __version__
from ganduel.config.compose import check_sweep, compose, finish, parts_of_its_own
from ganduel.config.explain import explain
from ganduel.config.keys import config_dir, listed, parse, quote
from ganduel.config.schema import METRICS
from ganduel.system.errors import Interrupted, UserError
from ganduel.system.terminal import printable, tell

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
    "fid": "take a smaller metric.samples, or only metrics that keep no features, as metric.which=[fid]",
    "data": "pack with workers=1",
    "export": "export on a machine where nothing else runs",
    "import": "import on a machine where nothing else runs",
    "report": "report on fewer runs",
}


def train() -> None:
    """Entry point of gan-train."""
    sys.exit(command("train", sys.argv[1:]))


def sample() -> None:
    """Entry point of gan-sample."""
    sys.exit(command("sample", sys.argv[1:]))


def fid() -> None:
    """Entry point of gan-fid."""
    sys.exit(command("fid", sys.argv[1:]))


def data() -> None:
    """Entry point of gan-data."""
    sys.exit(command("data", sys.argv[1:]))


def export() -> None:
    """Entry point of gan-export."""
    sys.exit(command("export", sys.argv[1:]))


def import_weights() -> None:
    """Entry point of gan-import, which Python does not take as a name."""
    sys.exit(command("import", sys.argv[1:]))


def report() -> None:
    """Entry point of gan-report."""
    sys.exit(command("report", sys.argv[1:]))


def command(name: str, arguments: list[str]) -> int:
    """Run a command with its arguments. Returns the exit code."""
    if "--version" in arguments:
        print(f"ganduel {__version__}")
        return 0
    quoted = [quote(a, sweep=bool({"-m", "--multirun"} & {*arguments})) for a in arguments]
    try:
        try:
            read = _read(quoted)
            flags = [a for a in quoted if a not in (*read.overrides, "--")]
            typed = [a for a, q in zip(arguments, quoted, strict=True) if q in read.overrides]
            if name == "report":
                read.overrides = listed("runs", read.overrides)
            named = {str(override.key_or_group): override.value() for override in parse(read.overrides)}
        except ValueError as error:
            return _fail(str(error), 2)
        if name == "train" and "settings_from" in named:
            read.overrides = typed = _again(read.overrides)
        if any(value for flag, value in vars(read).items() if flag not in ("overrides", "run")):
            if read.multirun and not read.config_dir:
                check_sweep(name, read.overrides)
            own = Path(read.config_dir or "") / "experiment" / f"{named.get('experiment')}.yaml"
            added = (
                [one for one in parts_of_its_own(own) if one.partition("=")[0] not in named] if read.config_dir else []
            )
            return _through_hydra(name, flags, [*added, *read.overrides], added)
        perform(name, compose(name, read.overrides), typed)
        return 0
    except UserError as error:
        return _fail(str(error))
    except Interrupted as error:
        return error.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout has stopped, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(f"{error.filename or name}: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        from ganduel.system.device import out_of_memory  # which imports PyTorch

        if not out_of_memory(error):
            raise
        return _fail(f"memory ran out; {LESS_MEMORY[name]}, or use a machine with more memory")


def perform(name: str, settings: Any, overrides: list[str]) -> dict[str, Any]:
    """Run a command on a composed configuration. The first process prints the result."""
    module, line = COMMANDS[name]
    result = importlib.import_module(module).main(settings, overrides)
    if int(os.environ.get("RANK", 0)) == 0:
        tell(json.dumps(_finite(result), allow_nan=False) if settings.json else line(result))
    return result


def _again(overrides: list[str]) -> list[str]:
    from ganduel.runs.again import again  # which imports PyTorch

    return again(overrides)


def _finite(value: Any) -> Any:
    """A result without numbers that JSON lacks: NaN and infinity become None."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _imported(out: str, settings: list[str]) -> str:
    """Where the checkpoint lies, and the command that starts from it."""
    return f"{out}\nto start from it: gan-train model=stylegan2_ada init_from={out} {' '.join(settings)}"


def _read(arguments: Sequence[str]) -> Namespace:
    """Separate flags from overrides with Hydra's own parser. Raises ValueError."""

    def fail(message: str) -> NoReturn:
        raise ValueError(f"{message}; --hydra-help explains the flags")

    parser = get_args_parser()
    parser.error = fail  # type: ignore[method-assign]
    read = parser.parse_intermixed_args(arguments)
    if read.config_name or read.config_path:
        fail("--config-name and --config-path cannot be set; --config-dir adds a folder of your own")
    return read


def _through_hydra(name: str, flags: Sequence[str], overrides: Sequence[str], added: Sequence[str]) -> int:
    """Let Hydra handle flags such as --help and --cfg, and run the jobs of a sweep one after another.

    `added` are the overrides that nobody typed. Returns the exit code.
    """

    swept: set[str] = set()  # folders that hold the runs of a sweep
    finished: list[tuple[float, float, str]] = []  # (sort key, best value, run folder) of each job in this process

    def job(composed: Any) -> float | None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode
        from omegaconf import open_dict

        context = HydraConfig.get()
        own = [source.path for source in context.runtime.config_sources if source.provider == "command-line"]
        overrides = [*(f"--config-dir={path}" for path in own), *(o for o in context.overrides.task if o not in added)]
        try:
            if name == "train" and context.mode == RunMode.MULTIRUN:
                with open_dict(composed):
                    composed.name = f"{composed.name}/{context.job.num}"
                overrides = [o for o in overrides if not o.startswith("name=")] + [f"name={composed.name}"]
            result = perform(name, finish(composed), overrides)
        except UserError as error:
            sys.exit(_fail(str(error)))
        except Interrupted as error:
            sys.exit(error.code)
        if name == "train" and context.mode == RunMode.MULTIRUN:
            swept.add(os.path.dirname(result["run"]))
        if "best" in result:
            sign = METRICS[composed.metric.which[0]][1]
            finished.append((sign * result["best"], result["best"], result["run"]))
        return result.get("best", next((value for value in result.values() if isinstance(value, float)), None))

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises the original exceptions
    with tempfile.TemporaryDirectory() as scratch:  # for Hydra's files in a sweep of a command without run folders
        elsewhere = [] if name == "train" else [f"hydra.sweep.dir='{scratch}'"]
        sys.argv = [f"gan-{name}", *flags, "--", *overrides, *elsewhere]
        try:
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(job)()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 2 if end.code else 0
        except (HydraException, OmegaConfBaseException) as error:
            return _fail(explain(name, overrides, error))
    if len(finished) > 1:
        _, value, folder = min(finished)
        print(f"best of {len(finished)} runs: {value:.4g}, {folder}", file=sys.stderr)
    if swept:
        print(f"compare them: gan-report {shlex.join(sorted(swept))}", file=sys.stderr)
    return 0


def _fail(text: str, code: int = 1) -> int:
    """Print an error as one line. Returns the exit code."""
    print("error: " + printable(" ".join(text.split())), file=sys.stderr)
    return code
