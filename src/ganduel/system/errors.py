"""The only exception that users should see, and helpers for its text."""

import difflib
import importlib
import types
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Union, get_args, get_origin


class UserError(Exception):
    """An error that the user can fix. The command prints it as one line, `error: ...`, and exits with 1.

    The text names the key, its value, the allowed values, and what to do.
    """

    def _render_traceback_(self) -> list[str]:
        """The text that IPython and Jupyter show, without lines of code."""
        return [f"error: {self}"]


class Interrupted(Exception):
    """A signal stopped the run after it saved a checkpoint. `code` is the exit status: 128 plus the signal's number."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


def installed(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional package. If it is missing, raise UserError that names the `extra` to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise UserError(f"{purpose} needs the package {package}: pip install 'ganduel[{extra}]'") from error


WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}


def describe_type(hint: Any) -> str:
    """Describe a type hint in the words of a configuration file."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(str(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(a) for a in arguments if get_origin(a) or a in WORDS) or "a part"
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: {', '.join(map(describe_type, arguments))}"
    if origin in (list, tuple, Sequence):
        return f"a list, each {describe_type(arguments[0])}"
    return WORDS.get(hint, "a part")


def suggest(name: str, known: Iterable[str]) -> str:
    """ "Did you mean: ...?" with up to three names that are similar, whatever their capitals, or that contain this one;
    if there are none, a list of all known names."""
    known = sorted(known)
    spelt = {one.lower(): one for one in reversed(known)}
    close = [spelt[one] for one in difflib.get_close_matches(name.lower(), spelt, n=3, cutoff=0.6)]
    close = close or [one for one in known if name and name.lower() in one.lower()][:3]
    if close:
        return f"Did you mean: {', '.join(close)}?"
    return f"There is: {', '.join(known)}." if len(known) <= 30 else "--help lists all of them."
