"""Explain why Hydra refuses a configuration, in one line that tells the user what to do."""

import re
import typing
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

from hydra import MissingConfigException, compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException, ValidationError

from ganduel.config.keys import config_dir, flatten, options, parse
from ganduel.config.renamed import refusal
from ganduel.config.schema import SCHEMAS
from ganduel.system.errors import describe_type, suggest


def explain(command: str, overrides: Sequence[str], error: Exception) -> str:
    """One line about `error`, which Hydra raised while it composed a configuration, and what to do about it."""
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        known = error.options or options(group)
        close = suggest(option, known)
        listed = f" There is: {', '.join(known)}." if close.startswith("Did") else ""
        return f"unknown {group} '{option}'. {close}{listed}"
    parsed = parse(overrides)
    typed = [o for o in parsed if not o.is_hydra_override()]
    for one in typed:
        if told := refusal(one.key_or_group, str(one.input_line).partition("=")[2]):
            return told
    if mistake := _misspelt(command, typed, [o for o in parsed if o.is_hydra_override()]):
        return mistake
    cause: BaseException = error
    while cause.__cause__ and (not str(cause).strip() or isinstance(cause.__cause__, OmegaConfBaseException)):
        cause = cause.__cause__
    key = str(getattr(cause, "full_key", None) or "")
    found = [str(o.input_line).partition("=")[2] for o in typed if o.key_or_group == key]
    if isinstance(cause, ValidationError) and found and (hint := _hint(command, key)) is not None:
        return f"{key}={found[-1]} is not allowed; it takes {describe_type(hint)}"
    text = " ".join(line for line in str(cause).splitlines() if not re.match(r"\s*(full_key|\w+_type)[:=]", line))
    return f"{key}: {text}" if key else text


def _misspelt(command: str, typed: Sequence[Override], hydra: Sequence[Override]) -> str | None:
    """The error text for a group whose value is no option name, or for the first unknown key; None without either.

    `hydra` are the overrides of Hydra's own keys, such as the folder of --config-dir.
    """
    chosen = [o for o in typed if o.key_or_group and (config_dir() / o.key_or_group).is_dir()]
    for override in chosen:
        value = override.value()
        numbers = isinstance(value, list) and any(isinstance(one, int | float) for one in value)
        if (numbers or not isinstance(value, str | list)) and not override.is_sweep_override():
            return f"{override.input_line} is not allowed; it takes {', '.join(options(override.key_or_group))}"
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            lines = [o.input_line or "" for o in (*hydra, *chosen)]
            base = compose(command, overrides=lines, return_hydra_config=True)
        groups = {name for name in base.hydra.runtime.choices if "/" not in name}
        known = [key for key, _ in flatten(base) if not key.startswith("hydra.")]
    except (HydraException, OmegaConfBaseException):  # then no key is to blame
        return None
    nodes = {".".join(key.split(".")[:i]) for key in known for i in range(1, key.count(".") + 2)}
    for override in typed:
        key = override.key_or_group
        if override in chosen or key in groups or key in nodes or override.is_add():
            continue
        group, _, rest = key.partition(".")
        option = rest.partition(".")[0]
        selected = [n.partition(".")[2] for n in sorted(nodes) if n.startswith(f"{group}.") and n.count(".") == 1]
        if group not in groups and option in options(group) and option not in selected:  # it takes a list of options
            select = ",".join([*selected, option])
            return f"{group}.{option} is tuned but not selected; select it with {group}={select}"
        if group in groups and base.hydra.runtime.choices[group] is None:
            return f"{key} is set but no {group} is chosen; choose one with {group}=NAME: {', '.join(options(group))}"
        return f"unknown option '{key}'. {suggest(key, sorted({*nodes, *groups}))}"
    return None


def _hint(command: str, key: str) -> Any:
    """The type of a key in the schema; None if the schema has none."""
    hint: Any = SCHEMAS[command]
    for name in key.split("."):
        hint = typing.get_type_hints(hint).get(name) if is_dataclass(hint) else None
    return hint
