"""The schema of every command's configuration: its keys, with the types and rules of their values.

All defaults are in configs/. The metadata of a field holds the rules that its type cannot express. Parts check their
own keys.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin

from hydra.core.config_store import ConfigStore

T = TypeVar("T")
Rules = dict[str, Any]

# metric -> (the value that decides which networks are best, 1 if less is better or -1 if more is better)
METRICS = {
    "fid": ("fid", 1),
    "kid": ("kid", 1),
    "isc": ("isc", -1),
    "prc": ("recall", -1),
    "dc": ("coverage", -1),
    "ppl": ("ppl", 1),
    "successive": ("successive_fid", -1),
    "modes": ("reverse_kl", 1),
}
# metrics that need no feature extractor -> all their values
PLAIN = {"ppl": ("ppl",), "modes": ("modes", "high_quality", "reverse_kl")}
MOST_SEEDS = 10_000_000  # images that one command makes
DEVICES = "auto", "cuda", "mps", "cpu"
EFFICIENTNET_SIDE = 160  # width and height in pixels of EfficientNet's input when it measures images
# feature extractor -> the end of its values' names. Only Inception, and the classifier for digits, give plain FID.
# Other extractors, and another input size, give numbers on other scales.
FEATURES = {
    "inception": "",
    "digits": "",
    "clip": "_clip",
    "dinov2": "_dinov2",
    "efficientnet": f"_efficientnet_{EFFICIENTNET_SIDE}",
    "efficientnet_lite2": f"_efficientnet_lite2_{EFFICIENTNET_SIDE}",
}

# The value is a path. It may contain characters that have a meaning in Hydra's grammar (= , ( [ ~ # ').
PATH: Rules = {"path": True}
# The value is a list of paths.
PATH_LIST: Rules = PATH | {"list": True}
# The value is a name, as it is typed: 1e-4 is no number, but these four characters.
TEXT: Rules = {"text": True}
# A resumed run may change the value. Without this rule, another value makes another experiment.
FREE: Rules = {"free": True}
# A resumed run may change the value, and reports leave it out.
ASIDE: Rules = FREE | {"aside": True}


# The value is one thing or a list of them. (Keys whose type is a list need no rule.)
LISTED: Rules = {"listed": True}


def limited(low: float, high: float | None = None) -> Rules:
    """The value is a number from `low` to `high`; None is no upper limit."""
    return {"limits": (low, high)}


def one_of(*choices: Any) -> Rules:
    """The value is one of `choices`. In a list, every item is."""
    return {"choices": choices}


def also(*values: Any) -> Rules:
    """These values are allowed besides the others of the key, but errors do not offer them: only some data sets have
    them, and their YAML files say so."""
    return {"also": values}


SOME: Rules = {"some": True}  # the list is not empty


def within(**rules: Rules) -> Rules:
    """The value is a part. `rules` maps some of its keys to their rules."""
    return {"within": rules}


@dataclass
class Every:
    """Intervals, such as "10 kimg". None means one that suits the duration."""

    log: str | None
    validation: str | None
    sample: str | None
    checkpoint: str | None
    metric: str | None


@dataclass
class Metric:
    """The metrics of a run, the number of images, and the feature extractor."""

    which: list[str] = field(metadata=one_of(*METRICS))
    samples: int | None = field(metadata=limited(2))
    features: str = field(metadata=one_of("auto", *FEATURES))
    weights: str | None = field(metadata=PATH)
    batch: int = field(metadata=limited(1))
    patience: int | None = field(metadata=limited(1))


@dataclass
class Health:
    """The limits of the health checks (`runs.health`). None switches a check off."""

    checks: int = field(metadata=limited(1))
    lasting: int = field(metadata=limited(1))
    spread: float | None = field(metadata=limited(0))
    explosion: float | None = field(metadata=limited(1))
    vanishing: float | None = field(metadata=limited(0))
    overfitting: float | None = field(metadata=limited(0))
    accuracy: float | None = field(metadata=limited(0, 1))
    ada: float | None = field(metadata=limited(0, 1))
    modes: float | None = field(metadata=limited(0, 1))
    lost_modes: float | None = field(metadata=limited(0, 1))


@dataclass
class Ema:
    """The moving average of the generators (`ema`)."""

    half_life: str | None
    ramp: float | None = field(metadata=limited(0))


@dataclass
class Stack:
    """Stacks of grey images (`data.stacks`). With `count` None there are none."""

    count: int | None = field(metadata=limited(1))
    seed: int
    of: str = field(metadata=one_of("train", "all"))


@dataclass
class Data:
    """Which images a run has, and how they are packed and loaded."""

    name: str = field(metadata=TEXT)
    source: dict[str, Any] = field(metadata=within(root=ASIDE))
    category: str | None = field(metadata=TEXT)
    root: str | None = field(metadata=PATH | ASIDE)
    packed: str = field(metadata=PATH | ASIDE)
    resolution: int = field(metadata=limited(4, 1024) | also(1))  # 1 and 2 channels: points in the plane
    channels: int = field(metadata=one_of(1, 3) | also(2))
    crop: int | None = field(metadata=limited(4))
    load_size: int | None = field(metadata=limited(4))
    resize: str = field(metadata=one_of("box", "bicubic", "lanczos", "pad", "stretch"))
    limit: int | None = field(metadata=limited(1))
    stack: Stack
    labels: str = field(metadata=one_of("auto", "folders", "json", "none"))
    mirror: bool
    augment: dict[str, Any]
    validation: float | None = field(metadata=limited(0))
    max_rejected: float = field(metadata=limited(0, 1) | FREE)
    raw_limit_gb: float = field(metadata=limited(0))
    on_device: Any = field(metadata=one_of("auto", True, False) | FREE)  # auto, true, false
    stream: str | None = field(metadata=PATH | ASIDE)
    cache_gb: float = field(metadata=limited(0) | ASIDE)
    features: str = field(metadata=one_of("auto", *FEATURES) | FREE)


@dataclass
class Train:
    """The keys of gan-train."""

    name: str = field(metadata=TEXT | ASIDE)
    runs_dir: str = field(metadata=PATH | ASIDE)
    duration: str = field(metadata=FREE)
    seed: int
    batch_size: int = field(metadata=limited(1))
    micro_batch: Any = field(metadata=limited(1) | FREE)  # a number, auto, null
    forecast: bool = field(metadata=FREE)
    compile: bool = field(metadata=FREE)
    cuda_graphs: bool | None = field(metadata=FREE)
    triton: bool = field(metadata=FREE)
    tf32: bool = field(metadata=FREE)
    cudnn_benchmark: bool = field(metadata=FREE)
    device: str = field(metadata=one_of(*DEVICES) | FREE)
    precision: str | None = field(metadata=one_of(None, "fp32", "bf16", "fp16"))
    workers: int | None = field(metadata=limited(1) | ASIDE)
    keep: int = field(metadata=limited(0) | ASIDE)
    loss_ema: float = field(metadata=limited(0, 1) | FREE)
    validation_images: int | None = field(metadata=limited(1) | FREE)
    accept_changes: bool = field(metadata=ASIDE)
    overwrite: bool = field(metadata=ASIDE)
    init_from: str | None = field(metadata=PATH)
    settings_from: str | None = field(metadata=PATH | ASIDE)
    allow: list[str] = field(metadata=ASIDE)
    json: bool = field(metadata=ASIDE)
    on_alarm: str = field(metadata=one_of("warn", "stop") | FREE)
    every: Every = field(metadata=ASIDE)
    metric: Metric = field(metadata=FREE)
    health: Health = field(metadata=FREE)
    ema: Ema
    data: Data
    model: dict[str, Any] = field(metadata=within(latent=limited(1), channels=limited(1), pack=limited(1)))
    loss: dict[str, Any]
    regularizer: dict[str, Any]
    augment: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    schedule: dict[str, Any]
    turns: dict[str, Any]


@dataclass
class Pack:
    """The keys of gan-data."""

    data: Data
    workers: int | None = field(metadata=limited(1))
    look_alikes: str | None = field(metadata=one_of(None, "efficientnet", "efficientnet_lite2"))
    json: bool
    allow: list[str]


@dataclass
class Where:
    """Where the images that a checkpoint was trained on are now."""

    root: str | None = field(metadata=PATH)
    packed: str | None = field(metadata=PATH)
    stream: str | None = field(metadata=PATH)


@dataclass
class Sample:
    """The keys of gan-sample."""

    ckpt: str = field(metadata=PATH)
    mode: dict[str, Any]
    out: str | None = field(metadata=PATH)
    seeds: Any = field(metadata=LISTED)  # a range, a number, or a list of numbers
    count: int | None = field(metadata=limited(1, MOST_SEEDS))
    input: str | None = field(metadata=PATH)
    direction: str = field(metadata=one_of("A2B", "B2A"))
    truncation: float
    cutoff: int | None = field(metadata=limited(1))
    noise: Any = field(metadata=LISTED)  # null, random, constant, none, or a list of them
    label: int | None = field(metadata=limited(0))
    data: Where
    ema: bool
    batch: int = field(metadata=limited(1))
    device: str = field(metadata=one_of(*DEVICES))
    json: bool
    allow: list[str]


@dataclass
class FidMetric:
    """The metrics of gan-fid, the number of images, and the feature extractor."""

    which: list[str] = field(metadata=one_of(*METRICS) | SOME)
    samples: Any = field(metadata=limited(2) | LISTED)  # a number, or a list of them
    reals: str = field(metadata=one_of("all", "equal"))
    features: str | None = field(metadata=one_of(None, "auto", *FEATURES))
    weights: str | None = field(metadata=PATH)


@dataclass
class Fid:
    """The keys of gan-fid."""

    ckpt: str | None = field(metadata=PATH)
    folders: list[str] | None = field(metadata=PATH_LIST)
    size: int | None = field(metadata=limited(4, 4096))
    metric: FidMetric
    data: Where
    repeats: int = field(metadata=limited(1))
    seed: int
    ema: bool
    batch: int = field(metadata=limited(1))
    device: str = field(metadata=one_of(*DEVICES))
    workers: int | None = field(metadata=limited(1))
    json: bool
    allow: list[str]


@dataclass
class Export:
    """The keys of gan-export."""

    ckpt: str = field(metadata=PATH)
    format: dict[str, Any]
    out: str | None = field(metadata=PATH)
    ema: bool
    json: bool
    allow: list[str]


@dataclass
class Import:
    """The keys of gan-import."""

    input: str = field(metadata=PATH)
    out: str | None = field(metadata=PATH)
    data: dict[str, Any] = field(metadata=within(**{one.name: dict(one.metadata) for one in fields(Data)}))  # or none
    workers: int | None = field(metadata=limited(1))
    json: bool
    allow: list[str]


@dataclass
class Report:
    """The keys of gan-report."""

    runs: list[str] = field(metadata=PATH_LIST)
    out: str | None = field(metadata=PATH)
    figures: str | None = field(metadata=PATH)
    watch: bool
    port: int = field(metadata=limited(0, 65535))
    json: bool


SCHEMAS = {
    "train": Train,
    "data": Pack,
    "sample": Sample,
    "fid": Fid,
    "export": Export,
    "import": Import,
    "report": Report,
}
for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_schema)


def rules_of(schema: type, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(dotted key, rules) of every key of a schema, at every depth."""
    for one in fields(schema):
        key = f"{prefix}{one.name}"
        yield key, one.metadata
        for name, rules in one.metadata.get("within", {}).items():
            yield f"{key}.{name}", rules
        if isinstance(one.type, type) and is_dataclass(one.type):
            yield from rules_of(one.type, f"{key}.")


def marked(mark: str, *schemas: type) -> tuple[str, ...]:
    """The dotted keys of the schemas that have the rule `mark`."""
    return tuple(dict.fromkeys(key for schema in schemas for key, rules in rules_of(schema) if mark in rules))


def typed_as(schema: type, kind: type, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a schema whose type is `kind[...]`, or that or None, at every depth."""
    for one in fields(schema):
        key = f"{prefix}{one.name}"
        hint: Any = one.type
        if any(get_origin(part) is kind for part in (hint, *get_args(hint))):
            yield key
        elif isinstance(hint, type) and is_dataclass(hint):
            yield from typed_as(hint, kind, f"{key}.")


PATHS = marked("path", *SCHEMAS.values())
# Of each command: the keys that take a list, those that also take one, and those of parts, which check their own keys.
LIST_KEYS = {name: {*typed_as(schema, list)} for name, schema in SCHEMAS.items()}
SEVERAL = {name: {*marked("listed", schema)} for name, schema in SCHEMAS.items()}
PARTS = {name: {*typed_as(schema, dict)} for name, schema in SCHEMAS.items()}
LISTS = marked("list", *SCHEMAS.values())
TEXTS = marked("text", *SCHEMAS.values())


def features_label(features: str) -> str:
    """The name of a feature extractor in texts and file names, with its input size if that is our own choice."""
    return FEATURES[features].removeprefix("_") or features


def value_name(name: str, features: str) -> str:
    """The full name of a metric's value, such as "fid_efficientnet_160" for "fid".

    The values of metrics without an extractor (`PLAIN`) keep their names.
    """
    return name if any(name in names for names in PLAIN.values()) else name + FEATURES[features]


def deciding(metric: Metric) -> str:
    """The full name of the value that decides which networks are best; "" if nothing is measured."""
    return value_name(METRICS[metric.which[0]][0], metric.features) if metric.which else ""


def plain(config: Any) -> dict[str, Any]:
    """A configuration as mappings, lists and plain values, as checkpoints store it."""
    return asdict(config)


def typed(schema: type[T], stored: Mapping[str, Any]) -> T:
    """The inverse of `plain`. Parts that are typed already stay as they are.

    Another version may have stored the values. Keys that this schema does not have are left out. Missing keys stay
    unset, and raise AttributeError only when they are read.
    """
    made = object.__new__(schema)
    for one in fields(schema):  # type: ignore[arg-type]
        if one.name in stored:
            value, kind = stored[one.name], one.type
            if isinstance(kind, type) and is_dataclass(kind) and not isinstance(value, kind):
                value = typed(kind, value)
            setattr(made, one.name, value)
    return made
