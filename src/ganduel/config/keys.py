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

from ganduel.config.schema import PATHS


def config_dir() -> Path:
    """The folder of the configuration files: in the installed package or, without one, in the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def quote(argument: str) -> str:
    """Rewrite the argument `key=value` for Hydra.

    A path gets quotes, so that Hydra takes it literally. `data.augment=[...]` becomes `augment@data.augment=[...]`,
    because its options are those of the group `augment`.
    """
    key, equals, value = argument.partition("=")
    if key == "data.augment":
        return f"augment@{argument}"
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if key.lstrip("+") not in PATHS or not value or value == "null" or in_quotes:
        return argument
    return f"{key}{equals}{literal(os.path.expanduser(value))}"  # not every shell expands a ~ after =


def literal(text: str) -> str:
    """Text in quotes, so that Hydra takes it literally."""
    backslashes = re.sub(r"\\+(?='|$)", lambda m: m[0] * 2, text)  # a single backslash before a quote would escape it
    return f"'{backslashes.replace(chr(39), chr(92) + chr(39))}'"


def listed(key: str, arguments: Sequence[str]) -> list[str]:
    """Gather the arguments without =, such as the paths of runs/*, in one argument `key=[...]`."""
    loose = [argument for argument in arguments if "=" not in argument]
    rest = [argument for argument in arguments if "=" in argument]
    return [f"{key}=[{','.join(map(literal, loose))}]", *rest] if loose else rest


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
