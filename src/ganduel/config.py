"""The typed root of the configuration, its composition from files and command line, and errors that people can act on."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ganduel.errors import UserError

# Keys whose values are paths, which may hold what Hydra's grammar gives a meaning (= , ( [ ~ # ').
PATHS = ("ckpt", "out", "init_from", "runs_dir", "data.root", "data.packed", "metric.weights")


@dataclass
class Every:
    log: str | None
    sample: str | None
    checkpoint: str | None
    metric: str | None


@dataclass
class Metric:
    which: list[str]
    samples: int | None
    features: str
    weights: str | None


@dataclass
class Ema:
    half_life: str
    ramp: float | None


@dataclass
class Data:
    name: str
    source: dict[str, Any]
    root: str
    packed: str
    resolution: int
    channels: int
    crop: int | None
    resize: str
    limit: int | None
    mirror: bool
    validation: float | None
    max_rejected: float
    features: str


@dataclass
class Train:
    """The keys of gan-train. Every default is in configs/, none here."""

    name: str
    runs_dir: str
    duration: str
    seed: int
    batch_size: int
    micro_batch: int | None
    device: str
    precision: str | None
    workers: int | None
    keep: int
    accept_changes: bool
    overwrite: bool
    init_from: str | None
    allow: list[str]
    json: bool
    every: Every
    metric: Metric
    ema: Ema
    data: Data
    model: dict[str, Any]
    loss: dict[str, Any]
    regularizer: dict[str, Any]
    augment: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    pace: dict[str, Any]


@dataclass
class Pack:
    """The keys of gan-data."""

    data: Data
    workers: int | None
    json: bool
    allow: list[str]


@dataclass
class Sample:
    """The keys of gan-sample."""

    ckpt: str
    mode: dict[str, Any]
    out: str | None
    seeds: Any
    count: int | None
    ema: bool
    batch: int
    device: str
    json: bool
    allow: list[str]


@dataclass
class FidData:
    root: str | None
    packed: str | None


@dataclass
class FidMetric:
    which: list[str]
    samples: int
    features: str | None
    weights: str | None


@dataclass
class Fid:
    """The keys of gan-fid."""

    ckpt: str | None
    folders: list[str] | None
    metric: FidMetric
    data: FidData
    repeats: int
    seed: int
    ema: bool
    batch: int
    device: str
    workers: int | None
    json: bool
    allow: list[str]


for _name, _schema in {"train": Train, "data": Pack, "sample": Sample, "fid": Fid}.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_schema)

# What a number must be; everything that is not a part checks here.
RANGES = {
    "batch_size": (1, None),
    "micro_batch": (1, None),
    "keep": (0, None),
    "workers": (1, None),
    "count": (1, None),
    "batch": (1, None),
    "repeats": (1, None),
    "metric.samples": (2, None),
    "data.resolution": (4, 1024),
    "data.crop": (4, None),
    "data.limit": (1, None),
    "data.validation": (0, None),
    "data.max_rejected": (0, 1),
    "ema.ramp": (0, None),
}
CHOICES = {
    "device": ("auto", "cuda", "mps", "cpu"),
    "precision": (None, "fp32", "bf16", "fp16"),
    "data.channels": (1, 3),
    "data.resize": ("box", "bicubic", "lanczos"),
    "metric.features": (None, "inception", "digits"),
    "data.features": ("inception", "digits"),
}
METRICS = ("fid", "kid", "isc", "prc")


def config_dir() -> Path:
    """The configuration files: inside the installed package, else in the checkout around it."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"


def quote(argument: str) -> str:
    """Quote the value of `key=value` where the key takes a path, so that Hydra takes it literally."""
    key, equals, value = argument.partition("=")
    if key.lstrip("+") not in PATHS or not value or value[0] in "'\"" or value == "null":
        return argument
    backslashes = re.sub(r"\\+(?='|$)", lambda m: m[0] * 2, value)  # those before a quote would escape it
    return f"{key}{equals}'{backslashes.replace(chr(39), chr(92) + chr(39))}'"


def compose(command: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a command as plain, resolved values. Raises UserError for whatever is wrong with it."""
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return finish(hydra_compose(command, overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(command, overrides, error)) from error


def finish(config: DictConfig) -> dict[str, Any]:
    """Resolve a composed configuration to plain values and check what can be checked without PyTorch."""
    for key, value in flatten(config):
        if value == "???":
            raise UserError(f"{key} is missing: give it as {key}=VALUE")
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error
    values = {**dict(flatten(OmegaConf.create(plain)))}
    for key, (low, high) in RANGES.items():
        value = values.get(key)
        if value is not None and (value < low or (high is not None and value > high)):
            limits = f"{low} or more" if high is None else f"{low} to {high}"
            raise UserError(f"{key}={value} is not allowed; it takes {limits}")
    for key, allowed in CHOICES.items():
        if key in values and values[key] not in allowed:
            raise UserError(f"{key}={values[key]} is not allowed; it takes {', '.join(str(a) for a in allowed if a)}")
    for name in plain.get("metric", {}).get("which", []):
        if name not in METRICS:
            raise UserError(f"metric.which={name} is not allowed; it takes {', '.join(METRICS)}")
    name = plain.get("name")
    if name is not None and not re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", name):
        raise UserError(f"name={name} is not allowed; it takes letters, digits and . _ + - and, between them, /")
    return plain


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; interpolations are left as they are."""
    if isinstance(config, DictConfig):
        for name in config:
            node = config._get_node(name)
            inner = f"{prefix}{name!s}"
            if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation() and not node._is_missing():
                yield from flatten(node, f"{inner}.")
            elif isinstance(node, ListConfig):
                yield inner, list(node) if not node._is_none() else None
            else:
                yield inner, node._value() if node is not None else None


def first_of_sweep(override: Override) -> str:
    """The override itself or, of a sweep, its first value: enough to find misspellings before a sweep starts."""
    if override.is_sweep_override():
        return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
    return override.input_line or ""


def parse(overrides: Sequence[str]) -> list[Override]:
    """Raises ValueError for what is not written in Hydra's grammar."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ValueError(" ".join(str(error).split())) from error


def _explain(command: str, overrides: Sequence[str], error: Exception) -> str:
    """One line that says what to do about an error of composition."""
    from ganduel.build import suggest

    groups = _groups()
    chosen = [o for o in parse(overrides) if o.key_or_group in groups]
    for override in chosen:
        value = override.value()
        names = value if isinstance(value, list) else [value]
        unknown = [str(n) for n in names if n is not None and str(n) not in groups[override.key_or_group]]
        if unknown:
            options = sorted(groups[override.key_or_group])
            close = suggest(unknown[0], options)
            listed = "" if close.startswith("There is") else f" There is: {', '.join(options)}"
            return f"unknown {override.key_or_group} '{unknown[0]}'. {close}{listed}"
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            base = hydra_compose(command, overrides=[o.input_line or "" for o in chosen])
    except (HydraException, OmegaConfBaseException):
        base = None
    if base is not None:
        known = [key for key, _ in flatten(base)]
        nodes = {".".join(key.split(".")[:i]) for key in known for i in range(1, key.count(".") + 2)}
        for override in parse(overrides):
            key = override.key_or_group
            if key not in groups and key not in nodes and not override.is_add():
                return f"unknown option '{key}'. {suggest(key, [*known, *groups])}"
    cause = error
    while isinstance(cause, ConfigCompositionException) and cause.__cause__ is not None:
        cause = cause.__cause__  # type: ignore[assignment]
    lines = [line.strip() for line in str(cause).splitlines() if not line.strip().startswith(("reference_type", "object_type"))]
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    text = " ".join(line for line in lines if line and not line.startswith("full_key:"))
    return f"{key}: {text}" if key else text


def _groups() -> dict[str, set[str]]:
    """Every group of configs/ with its options."""
    top = config_dir()
    return {
        os.path.relpath(folder, top): {f[:-5] for f in files if f.endswith(".yaml")}
        for folder, _, files in os.walk(top)
        if folder != str(top)
    }
