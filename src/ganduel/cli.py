"""The commands. PyTorch is imported only once the arguments are understood.

Exit codes: 0 done, 1 something the user can mend (one line on stderr), 2 a command line that cannot be read, 128 plus the signal's number when stopped by one.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import hydra

from ganduel import __version__, config
from ganduel.errors import Interrupted, UserError

# command -> (module whose main(config, overrides) does it, what it prints as its result)
COMMANDS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "train": ("ganduel.train", lambda result: result["run"]),
    "sample": ("ganduel.sample", lambda result: result["out"]),
    "fid": ("ganduel.fid", lambda result: result["text"]),
    "data": ("ganduel.data.__main__", lambda result: result["path"]),
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


def command(name: str, arguments: list[str]) -> int:
    """Run a command on its arguments; returns the exit code."""
    if "--version" in arguments:
        print(f"ganduel {__version__}")
        return 0
    arguments = [config.quote(a) for a in arguments]
    overrides = [a for a in arguments if not a.startswith("-")]
    flags = [a for a in arguments if a.startswith("-")]
    try:
        try:
            parsed = config.parse(overrides)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if flags:  # sweeps, --help, --cfg and the like are Hydra's
            if any(f in ("-m", "--multirun") for f in flags):
                config.compose(name, [config.first_of_sweep(o) for o in parsed])  # misspellings, before a sweep starts
            return _through_hydra(name, arguments)
        perform(name, config.compose(name, overrides), sys.argv[1:])
        return 0
    except UserError as error:
        return _fail(str(error))
    except Interrupted as error:
        return error.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(f"{error.filename or name}: {error.strerror or error}")


def perform(name: str, settings: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Do what a command does with a composed configuration, and print its result line."""
    module, line = COMMANDS[name]
    result = importlib.import_module(module).main(settings, overrides)
    if int(os.environ.get("RANK", 0)) == 0:
        print(json.dumps(result) if settings["json"] else line(result))
    return result


def _through_hydra(name: str, arguments: list[str]) -> int:
    """Let Hydra parse the arguments and, in a sweep, run the jobs one after another."""

    def job(composed: Any) -> float | None:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import open_dict

        context = HydraConfig.get()
        overrides = list(context.overrides.task)
        try:
            if name == "train":
                with open_dict(composed):
                    composed.name = f"{composed.name}/{context.job.num}"
                overrides = [o for o in overrides if not o.startswith("name=")] + [f"name={composed.name}"]
            result = perform(name, config.finish(composed), overrides)
        except UserError as error:
            sys.exit(_fail(str(error)))
        except Interrupted as error:
            sys.exit(error.code)
        return next((value for value in result.values() if isinstance(value, float)), None)

    sys.argv = [f"gan-{name}", *arguments]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # what is raised here is raised whole
    try:
        hydra.main(version_base="1.3", config_path=str(config.config_dir()), config_name=name)(job)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2 if end.code else 0
    return 0


def _fail(text: str) -> int:
    """The one line of a failure."""
    print("error: " + " ".join(text.split()), file=sys.stderr)
    return 1
