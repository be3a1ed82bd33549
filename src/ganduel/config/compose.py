"""Composing a configuration from files and command line, with errors that people can act on."""

import math
import os
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import MissingConfigException, initialize_config_dir
from hydra import compose as hydra_compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from ganduel.config.schema import CHOICES, METRICS, PATHS, RANGES, SCHEMAS
from ganduel.system.errors import UserError, describe, suggest

# What StyleGAN2-ADA's automatic configuration for one GPU computes from the resolution and the batch.
RESOLVERS: dict[str, Callable[..., Any]] = {
    "stylegan2.batch": lambda resolution: max(1, min(4096 // resolution, 32)),
    "stylegan2.base": lambda resolution: 32768 if resolution >= 512 else 16384,
    "stylegan2.rate": lambda resolution: 0.002 if resolution >= 1024 else 0.0025,
    "stylegan2.r1": lambda resolution, batch: 0.0001 * resolution**2 / batch,
    "stylegan2.half_life": lambda batch: f"{batch * 10 / 32:g} kimg",
}
for _name, _formula in RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _formula, replace=True)


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


def compose(command: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a command as plain, resolved values. Raises UserError for whatever is wrong with it."""
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return finish(hydra_compose(command, overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(explain(command, overrides, error)) from error


def check_sweep(command: str, overrides: Sequence[str]) -> None:
    """Compose every value of a sweep, with the first values of the others, so that no job starts before all can."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
        values = [_values(override) for override in parsed]
    first = [v[0] for v in values]
    compose(command, first)
    for i, rest in enumerate(values):
        for value in rest[1:]:
            compose(command, [*first[:i], value, *first[i + 1 :]])


def _values(override: Override) -> list[str]:
    """The overrides that a sweep stands for; of an interval, its ends."""
    line = override.input_line or ""
    if not override.is_sweep_override():
        return [line]
    interval: Any = override.value()
    ends = (interval.start, interval.end) if override.is_interval_sweep() else override.sweep_string_iterator()
    values = [f"{override.get_key_element()}={value}" for value in ends]
    if not values:
        raise UserError(f"{line} is not allowed; it leaves nothing to sweep over")
    return values


def finish(config: DictConfig) -> dict[str, Any]:
    """Resolve a composed configuration to plain values and check what can be checked without PyTorch."""
    if unknown := next(_unknown(config), None):
        raise UserError(f"unknown option '{unknown}', and a + in front does not make it known")
    for key, value in flatten(config):
        if value == "???":
            raise UserError(f"{key} is missing: give it as {key}=VALUE")
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    values = dict(flatten(OmegaConf.create(plain)))
    for key in PATHS:
        if values.get(key) == "":
            raise UserError(f"{key}= is empty; give it a path, or leave it out")
    for key, (low, high) in RANGES.items():
        value = values.get(key)
        if isinstance(value, int | float) and not low <= value <= (math.inf if high is None else high):
            limits = f"{low} or more" if high is None else f"{low} to {high}"
            raise UserError(f"{key}={value} is not allowed; it takes {limits}")
    for key, allowed in CHOICES.items():
        if key in values and values[key] not in allowed:
            choices = ", ".join(str(a).lower() if isinstance(a, bool) else str(a) for a in allowed if a is not None)
            raise UserError(f"{key}={values[key]} is not allowed; it takes {choices}")
    for name in plain.get("metric", {}).get("which", []):
        if name not in METRICS:
            raise UserError(f"metric.which={name} is not allowed; it takes {', '.join(METRICS)}")
    name = plain.get("name")
    if name is not None and not re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)*", name):
        raise UserError(f"name={name} is not allowed; it takes letters, digits and, after them, . _ + - /")
    return plain


def _unknown(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys that are not in the schema, as `+key=value` adds them. What is below a part, its signature checks."""
    schema = OmegaConf.get_type(config)
    if is_dataclass(schema):
        known = {f.name for f in fields(schema)}
        for name in config:
            if name not in known:
                yield f"{prefix}{name!s}"
            elif isinstance(node := config._get_node(name), DictConfig):
                yield from _unknown(node, f"{prefix}{name!s}.")


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


def explain(command: str, overrides: Sequence[str], error: Exception) -> str:
    """One line that says what to do about an error of composition."""
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = error.options or _options(group)
        close = suggest(option, options)
        listed = "" if close.startswith("There is") else f" There is: {', '.join(options)}"
        return f"unknown {group} '{option}'. {close}{listed}"
    typed = [o for o in parse(overrides) if not o.is_hydra_override()]
    if mistake := _misspelt(command, typed):
        return mistake
    cause: BaseException = error
    while cause.__cause__ and (not str(cause).strip() or isinstance(cause.__cause__, OmegaConfBaseException)):
        cause = cause.__cause__
    key = str(getattr(cause, "full_key", None) or "")
    found = [str(o.input_line).partition("=")[2] for o in typed if o.key_or_group == key]
    if isinstance(cause, ValidationError) and found and (hint := _hint(command, key)) is not None:
        listed = f", as in {key}=[{found[-1]}]" if typing.get_origin(hint) is list else ""
        return f"{key}={found[-1]} is not allowed; it takes {describe(hint)}{listed}"
    text = " ".join(line for line in str(cause).splitlines() if not re.match(r"\s*(full_key|\w+_type)[:=]", line))
    return f"{key}: {text}" if key else text


def _misspelt(command: str, typed: Sequence[Override]) -> str | None:
    """What is wrong with the first key that the configuration does not have, if there is one."""
    chosen = [o for o in typed if o.key_or_group and (config_dir() / o.key_or_group).is_dir()]
    for override in chosen:
        if not isinstance(override.value(), str | list) and not override.is_sweep_override():
            return f"{override.input_line} is not allowed; it takes {', '.join(_options(override.key_or_group))}"
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            base = hydra_compose(command, overrides=[o.input_line or "" for o in chosen], return_hydra_config=True)
        groups = {name for name in base.hydra.runtime.choices if "/" not in name}
        known = [key for key, _ in flatten(base) if not key.startswith("hydra.")]
    except (HydraException, OmegaConfBaseException):  # then the mistake is another
        return None
    nodes = {".".join(key.split(".")[:i]) for key in known for i in range(1, key.count(".") + 2)}
    for override in typed:
        key = override.key_or_group
        if override in chosen or key in groups or key in nodes or override.is_add():
            continue
        group, _, rest = key.partition(".")
        option = rest.partition(".")[0]
        selected = [n.partition(".")[2] for n in sorted(nodes) if n.startswith(f"{group}.") and n.count(".") == 1]
        if group not in groups and option in _options(group) and option not in selected:  # any number may be chosen
            select = ",".join([*selected, option])
            return f"{group}.{option} is tuned but not selected; select it with {group}=[{select}]"
        return f"unknown option '{key}'. {suggest(key, sorted({*nodes, *groups}))}"
    return None


def _hint(command: str, key: str) -> Any:
    """The type that the schema gives a key; None where it gives none."""
    hint: Any = SCHEMAS[command]
    for name in key.split("."):
        hint = typing.get_type_hints(hint).get(name) if is_dataclass(hint) else None
    return hint


def _options(group: str) -> list[str]:
    """The options of a group of configs/."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))
