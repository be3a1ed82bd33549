"""The one exception that users are meant to see, and words for what it says."""

import difflib
import importlib
import types
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Union, get_args, get_origin


class UserError(Exception):
    """Something the user can mend. Printed as one line `error: ...`; the command exits with 1.

    The text names the key, the value found, what is allowed and the way out.
    """


class Interrupted(Exception):
    """A signal asked the run to end, and it has saved. `code` is the exit status: 128 plus the signal's number."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


def installed(module: str, extra: str, purpose: str) -> Any:
    """A module of a package that not everyone has. Raises UserError, naming the `extra` that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise UserError(f"{purpose} needs the package {package}: pip install 'ganduel[{extra}]'") from error


WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}


def describe(hint: Any) -> str:
    """A type in the words of a configuration file."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(str(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in arguments if get_origin(a) or a in WORDS) or "a part"
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: {', '.join(map(describe, arguments))}"
    if origin in (list, tuple, Sequence):
        return f"a list, each {describe(arguments[0])}"
    return WORDS.get(hint, "a part")


def suggest(name: str, known: Iterable[str]) -> str:
    """ "Did you mean: ...?" where something is close, else what there is."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"Did you mean: {', '.join(close)}?"
    return f"There is: {', '.join(sorted(known))}" if len(known) <= 30 else "--cfg job prints all there are"
