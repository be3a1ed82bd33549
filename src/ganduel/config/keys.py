"""The folder of the configuration files, the arguments of a command line, and the leaves of a configuration."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig

from ganduel.config.schema import LIST_KEYS, LISTS, PARTS, PATHS, SEVERAL, TEXTS
from ganduel.system.errors import UserError

LIST_GROUPS = (
    "regularizer",
    "augment",
    "data.augment",
    "augment@data.augment",
)  # several options of these groups may be chosen together
PLAIN = re.compile(r"[^][(){}'\"$]+")  # a value, or several after commas, without a mark of Hydra's grammar
LONGEST = 4096  # characters in a path, on most systems
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
QUOTED_ITEM = re.compile(rf"\s*({QUOTED.pattern})\s*(?:,|$)", re.DOTALL)


def config_dir() -> Path:
    """The folder of the configuration files: in the installed package or, without one, in the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def options(group: str) -> list[str]:
    """The names of a group's options; [] if there is no such group."""
    named = re.fullmatch(r"\w+(/\w+)*", group)
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml")) if named else []


def quote(argument: str, *, sweep: bool = False) -> str:
    """Rewrite the argument `key=value` for Hydra, so that it takes paths and names as they are typed.

    A path gets quotes, and so does each path of a list. In a `sweep`, a key with one path takes several, with commas
    between them. A path that is typed in quotes is left to Hydra's grammar. `data.augment=[...]` becomes
    `augment@data.augment=[...]`, because its options are those of the group `augment`.
    """
    key, _, value = argument.partition("=")
    plain = key.lstrip("+")
    if key == "data.augment":
        return f"augment@{argument}"
    if not value or value == "null" or QUOTED.fullmatch(value):
        return argument
    if plain in LISTS and value[0] + value[-1] == "[]":
        return f"{key}=[{','.join(_paths(value[1:-1]))}]"
    if plain in PATHS and plain not in LISTS:
        return f"{key}={','.join(_paths(value)) if sweep else _path(value)}"
    if plain in TEXTS and not re.search(r"\$\{|,|^\w+\(.*\)$", value):  # else an interpolation or a sweep
        return f"{key}={literal(value)}"
    return argument


def _path(text: str) -> str:
    """A path in quotes. Not every shell expands a ~ after =. Hydra takes ??? for a value that is missing."""
    return literal("./???" if text == "???" else os.path.expanduser(text))


def _paths(text: str) -> list[str]:
    """The paths in a list without its brackets, each in quotes. Spaces around them do not count.

    A comma ends a path, unless the path with that comma exists and the shorter one does not.
    """
    found, start = [], 0
    while start < len(text):
        if quoted := QUOTED_ITEM.match(text, start):
            found.append(quoted[1])
            start = quoted.end()
            continue
        ends = [*(match.start() for match in re.finditer(",", text[start : start + LONGEST])), len(text) - start]
        typed = [text[start : start + end].strip() for end in ends]
        which = next((i for i, path in enumerate(typed) if os.path.lexists(os.path.expanduser(path))), 0)
        found.append(_path(typed[which]))
        start += ends[which] + 1
    return found


def for_hydra(command: str, argument: str, *, sweep: bool = False) -> str:
    """Rewrite an argument of a command, as people type it, for Hydra: a list without brackets, paths and names."""
    return quote(bracketed(command, argument, sweep), sweep=sweep)


def bracketed(command: str, argument: str, sweep: bool) -> str:
    """Put the brackets of a list around values that are typed without: `seeds=3,8`, `regularizer=r1`.

    In a sweep, a comma separates the runs: `regularizer=r1,r2` stands for the lists [r1] and [r2].
    """
    name, _, value = argument.partition("=")
    key = name.lstrip("+")
    is_list = key in LIST_GROUPS or key in LIST_KEYS[command]
    if not PLAIN.fullmatch(value) or (key in PATHS and not is_list):
        return argument
    if value == "null":
        return f"{name}=[]" if key in LIST_GROUPS else argument
    if sweep:
        return f"{name}={','.join(f'[{one}]' for one in value.split(','))}" if is_list else argument
    inside = any(key.startswith(f"{part}.") for part in PARTS[command])
    several = "," in value and (key in SEVERAL[command] or inside)
    return f"{name}=[{value}]" if is_list or several else argument


def own_options(folder: str) -> str:
    """The override that makes Hydra look for options in a folder of the user's, too. Raises UserError."""
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise UserError(f"--config-dir: there is no folder {folder}")
    return f"hydra.searchpath=[{literal(f'file://{path}')}]"


def literal(text: str) -> str:
    """Text in quotes, so that Hydra takes it literally, and OmegaConf sees no interpolation in it."""
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    backslashes = re.sub(r"\\+(?='|\Z)", lambda m: m[0] * 2, plain)  # a single backslash before a quote would escape it
    return f"'{backslashes.replace(chr(39), chr(92) + chr(39))}'"


def listed(key: str, arguments: Sequence[str]) -> list[str]:
    """Gather the arguments that are paths, such as those of runs/*, in one argument `key=[...]`.

    These are the arguments without =, and those with = that exist and begin with no key.
    """
    paths = [one for one in arguments if "=" not in one or (os.path.lexists(one) and one.split("=")[0] not in PATHS)]
    rest = [one for one in arguments if one not in paths]
    return [f"{key}=[{','.join(map(literal, paths))}]", *rest] if paths else rest


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf. Interpolations stay unresolved."""
    if isinstance(config, DictConfig):
        for name in config:
            node = config._get_node(name)
            inner = f"{prefix}{name!s}"
            if (
                isinstance(node, DictConfig)
                and not node._is_none()
                and not node._is_interpolation()
                and not node._is_missing()
            ):
                yield from flatten(node, f"{inner}.")
            elif isinstance(node, ListConfig):
                yield inner, list(node) if not node._is_none() else None
            else:
                yield inner, node._value() if node is not None else None


def leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a plain configuration. An empty mapping is a leaf."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides. Raises ValueError if one does not follow Hydra's grammar."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ValueError(" ".join(str(error).split())) from error


def spelt(value: Any) -> str:
    """A value as one types it; "" for one that the user has to give."""
    if isinstance(value, list | tuple | ListConfig):
        return f"[{','.join(map(spelt, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return "" if value == "???" else f'"{value}"' if " " in str(value) else str(value)
