"""Pickles of others, read without running anything that they name.

A pickle names functions, and loading it the usual way calls them. Here it gets stand-ins for the names that its kind
needs, and it is refused if it asks for any other name.
"""

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ganduel.system.errors import UserError


class Unasked(UserError):
    """A pickle asks for something that no pickle of its kind needs."""


class Restricted(pickle.Unpickler):
    """Reads a pickle of a `kind`, as errors call it.

    `known` maps dotted paths to stand-ins: a function to call, a class to make objects of, or None. Raises Unasked for
    any other path.

    The stand-ins should be made anew for every file, because a pickle may set attributes of a class that it was given.
    """

    def __init__(self, file: Any, kind: str, known: Mapping[str, Any], encoding: str = "ASCII"):
        """`encoding` is that of strings of Python 2; "bytes" leaves them as they are."""
        super().__init__(file, encoding=encoding)
        self.kind = kind
        self.known = {
            path: Call(stand_in, kind) if callable(stand_in) and not isinstance(stand_in, type) else stand_in
            for path, stand_in in known.items()
        }

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path not in self.known:
            raise Unasked(f"asks for {path}, which no {self.kind} does; it was not run")
        return self.known[path]

    def persistent_load(self, pid: Any) -> Any:
        raise Unasked(f"asks for data outside of it, which no {self.kind} does")


class Call:
    """A function that a pickle may call, and do nothing else with."""

    __slots__ = ("_function", "_kind")

    def __init__(self, function: Callable[..., Any], kind: str):
        self._function, self._kind = function, kind

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise Unasked(f"changes a function, which no {self._kind} does")


class Inert:
    """An object of no interest, which may be given any state."""

    def __setstate__(self, state: Any) -> None:
        pass


class Bytes:
    """An array of bytes in a pickle. Its `array` is uint8."""

    array: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, content = state
        if kind.name not in ("u1", b"u1") or by_columns or not isinstance(content, bytes):
            raise ValueError("an array that is not one of bytes, row by row")
        self.array = np.frombuffer(content, np.uint8).reshape(shape)


class Kind(Inert):
    """The type of an array's numbers, by its name."""

    def __init__(self, name: Any, *_: Any):
        self.name = name


def arrays() -> dict[str, Any]:
    """Stand-ins for all that arrays of bytes need. They become `Bytes`."""
    cores = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
    return {
        **{core: lambda *_: Bytes() for core in cores},
        "numpy.ndarray": None,
        "numpy.dtype": lambda *arguments: Kind(*arguments),
        "_codecs.encode": lambda text, encoding: text.encode("latin1"),
    }
