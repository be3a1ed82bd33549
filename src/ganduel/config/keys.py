"""The keys of a configuration: where its files are, what is typed on a command line, and all leaves of a tree."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig

from ganduel.config.schema import PATHS


def config_dir() -> Path:
    """The configuration files: inside the installed package, else in the checkout around it."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def quote(argument: str) -> str:
    """What Hydra is to read for `key=value`: a path in quotes, so that it is taken literally, and `data.augment=[...]`
    as the choice among the options of another group that it is."""
    key, equals, value = argument.partition("=")
    if key == "data.augment":
        return f"augment@{argument}"
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if key.lstrip("+") not in PATHS or not value or value == "null" or in_quotes:
        return argument
    return f"{key}{equals}{_literal(os.path.expanduser(value))}"  # shells leave the ~ behind a = alone


def _literal(text: str) -> str:
    """In quotes, so that Hydra takes it as it is."""
    backslashes = re.sub(r"\\+(?='|$)", lambda m: m[0] * 2, text)  # those before a quote would escape it
    return f"'{backslashes.replace(chr(39), chr(92) + chr(39))}'"


def listed(key: str, arguments: Sequence[str]) -> list[str]:
    """Gather what is no `key=value`, as a shell expands runs/*, into one list under this key."""
    loose = [argument for argument in arguments if "=" not in argument]
    rest = [argument for argument in arguments if "=" in argument]
    return [f"{key}=[{','.join(map(_literal, loose))}]", *rest] if loose else rest


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; interpolations are left as they are."""
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
    """(dotted key, value) of every leaf of a plain configuration."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def parse(overrides: Sequence[str]) -> list[Override]:
    """Raises ValueError for what is not written in Hydra's grammar."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ValueError(" ".join(str(error).split())) from error
