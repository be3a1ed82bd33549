"""Compose a configuration from files and the command line. Errors say what the user can do."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ganduel.config.explain import explain
from ganduel.config.keys import config_dir, flatten, leaves
from ganduel.config.renamed import refusal
from ganduel.config.schema import rules_of, typed
from ganduel.system.errors import UserError
from ganduel.system.files import ARCHIVES

PARTS = "data", "loss", "optimizer", "scheduler", "turns", "model"  # groups with one option each
OF_A_RUN = "checkpoints", "samples"  # folders in a run's folder that no other run may take
OWN_SETS = "folder", "zip", "folder_pair"  # options of data for the user's own images


def set_name(name: str, root: str | None) -> str:
    """The name of a data set in the names of runs. The user's own images have the name of their folder or archive."""
    if name not in OWN_SETS or root is None:
        return name
    found = Path(root).expanduser().resolve().name
    stem = found[: len(found) - len(next((end for end in ARCHIVES if found.lower().endswith(end)), ""))]
    return re.sub(r"[^\w.+-]+", "_", stem).lstrip("_.+-") or name


def span(source: Mapping[str, Any]) -> float:
    """Half a side of the square that plots of points show, for the `source` of a ring or a grid; 1 for other sets."""
    if "radius" in source:
        return 1.25 * source["radius"]
    return source["spacing"] * source["side"] / 2 if "spacing" in source else 1.0


# Functions that configurations call: the data set's part of a run's name; the channels of a pack of images; the span of
# plots of points; CycleGAN's load size for any resolution (pixels); and the formulas of StyleGAN2-ADA's automatic
# configuration for one GPU, from the resolution and the batch size.
RESOLVERS: dict[str, Callable[..., Any]] = {
    "set_name": set_name,
    "packed": lambda channels, pack: channels * pack if isinstance(pack, int) else channels,
    "points.span": span,
    "cyclegan.load_size": lambda resolution: resolution + round(resolution * 0.117),
    "stylegan2.batch": lambda resolution: max(1, min(4096 // resolution, 32)),
    "stylegan2.base": lambda resolution: 32768 if resolution >= 512 else 16384,
    "stylegan2.rate": lambda resolution: 0.002 if resolution >= 1024 else 0.0025,
    "stylegan2.r1": lambda resolution, batch: 0.0001 * resolution**2 / batch,
    "stylegan2.half_life": lambda batch: f"{batch * 10 / 32:g} kimg",
}
for _name, _formula in RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _formula, replace=True)


def compose(command: str, overrides: Sequence[str]) -> Any:
    """The checked configuration of a command, as an object of its schema. Raises UserError for any mistake in it."""
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return finish(hydra_compose(command, overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException, ValueError, TypeError) as error:  # Hydra's for regularizer=[1]
        raise UserError(explain(command, overrides, error)) from error


def parts_of_its_own(experiment: Path) -> list[str]:
    """Overrides that take the groups' options away, if the file of an experiment is a complete configuration.

    Such a file comes from `--cfg job`, or is the config.yaml of a run. It has all parts with all their keys, and the
    default parts have keys that must not be merged into these. For any other file, the list is empty.
    """
    try:
        content = OmegaConf.load(experiment)
    except MemoryError:
        raise
    except Exception:  # whatever the parser of a foreign file raises; Hydra says it better
        return []
    complete = isinstance(content, DictConfig) and content.keys() >= {*PARTS}
    return [f"~{part}" for part in PARTS] if complete else []


def check_sweep(command: str, overrides: Sequence[str]) -> None:
    """Compose one configuration for every value of a sweep, so that no job starts before all values are checked.

    All other keys have their first values. Raises UserError.
    """
    values = _swept(overrides)
    first = [v[0] for v in values]
    compose(command, first)
    for i, rest in enumerate(values):
        for value in rest[1:]:
            compose(command, [*first[:i], value, *first[i + 1 :]])


def first_job(command: str, overrides: Sequence[str]) -> DictConfig:
    """The composed configuration of a sweep's first job, with Hydra's own part. Raises UserError."""
    try:
        first = [values[0] for values in _swept(overrides)]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return hydra.compose(command, overrides=first, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(explain(command, overrides, error)) from error


def _swept(overrides: Sequence[str]) -> list[list[str]]:
    """For each override, the overrides that it stands for."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
        return [_values(override) for override in parsed]


def _values(override: Override) -> list[str]:
    """The overrides that one override stands for: all values of a sweep, or the two ends of an interval."""
    line = override.input_line or ""
    if not override.is_sweep_override():
        return [line]
    interval: Any = override.value()
    ends = (interval.start, interval.end) if override.is_interval_sweep() else override.sweep_string_iterator()
    values = [f"{override.get_key_element()}={value}" for value in ends]
    if not values:
        raise UserError(f"{line} has no values to sweep over; give at least one")
    return values


def finish(config: DictConfig) -> Any:
    """Resolve a composed configuration, and make all checks that need no PyTorch. Returns an object of its schema.

    Raises UserError.
    """
    if unknown := next(_unknown(config), None):
        raise UserError(refusal(unknown, "VALUE") or f"unknown option '{unknown}'; + cannot add a new option")
    for key, value in flatten(config):
        if value == "???":
            raise UserError(f"{key} is missing: give it as {key}=VALUE")
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    schema: Any = OmegaConf.get_type(config)
    if missing := next(_left_out(schema, plain), None):
        raise UserError(f"{missing} cannot be taken away; give it a value, as in {missing}=VALUE")
    values = dict(leaves(plain))
    for key, rules in rules_of(schema):
        if key in values:
            _check(key, values[key], rules)
    for key, value in values.items():
        if not _finite(value):
            raise UserError(f"{key}={value} is not allowed; it takes finite numbers")
    name = plain.get("name")
    if name is not None and not re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)*", name):
        raise UserError(f"name={name} is not allowed; it takes letters, digits and, after them, . _ + - /")
    if inside := {*OF_A_RUN} & {*(name or "").split("/")[1:]}:
        raise UserError(f"name={name} is not allowed; {inside.pop()} is a folder of the run that it would lie in")
    return typed(schema, plain)


def _check(key: str, value: Any, rules: Mapping[str, Any]) -> None:
    """Raise UserError if a value breaks the rules of its key."""
    if not isinstance(value, list) and value in rules.get("also", ()):
        return
    if "path" in rules and "" in (value if isinstance(value, list) else [value]):
        raise UserError(f"{key}= is empty; give it a path, or leave it out")
    if "some" in rules and value == []:
        raise UserError(f"{key}=[] is not allowed; it takes one or more of {', '.join(rules['choices'])}")
    if "limits" in rules and isinstance(value, int | float):
        low, high = rules["limits"]
        if not low <= value <= (math.inf if high is None else high):
            limits = f"{low} or more" if high is None else f"{low} to {high}"
            raise UserError(f"{key}={value} is not allowed; it takes {limits}")
    for item in value if isinstance(value, list) else [value]:
        if "choices" in rules and item not in (allowed := rules["choices"]):
            choices = ", ".join(str(a).lower() if isinstance(a, bool) else str(a) for a in allowed if a is not None)
            raise UserError(f"{key}={item} is not allowed; it takes {choices}")


def _left_out(schema: type, plain: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of the schema that a configuration lacks. `~key` on the command line removes keys."""
    for one in fields(schema):
        if one.name not in plain:
            yield prefix + one.name
        elif isinstance(one.type, type) and is_dataclass(one.type):
            yield from _left_out(one.type, plain[one.name], f"{prefix}{one.name}.")


def _finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _unknown(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted keys that are not in the schema. `+key=value` on the command line adds such keys.

    Keys inside a part are not checked here. `build` checks them against the signature of the part.
    """
    schema = OmegaConf.get_type(config)
    if is_dataclass(schema):
        known = {f.name for f in fields(schema)}
        for name in config:
            if name not in known:
                yield f"{prefix}{name!s}"
            elif isinstance(node := config._get_node(name), DictConfig):
                yield from _unknown(node, f"{prefix}{name!s}.")
