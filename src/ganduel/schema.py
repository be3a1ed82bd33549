"""The typed root of every command's configuration: which keys there are, and what their values may be.

Every default is in configs/, none here.
"""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

# Keys whose values are paths, which may hold what Hydra's grammar gives a meaning (= , ( [ ~ # ').
PATHS = ("ckpt", "out", "input", "init_from", "runs_dir", "data.root", "data.packed", "data.stream", "metric.weights")


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
    batch: int
    patience: int | None


@dataclass
class Health:
    checks: int
    lasting: int
    spread: float | None
    explosion: float | None
    vanishing: float | None
    overfitting: float | None
    accuracy: float | None
    ada: float | None


@dataclass
class Ema:
    half_life: str
    ramp: float | None


@dataclass
class Data:
    name: str
    source: dict[str, Any]
    category: str | None
    root: str | None
    packed: str
    resolution: int
    channels: int
    crop: int | None
    margin: float
    resize: str
    limit: int | None
    mirror: bool
    augment: dict[str, Any]
    validation: float | None
    max_rejected: float
    raw_limit_gb: float
    on_device: Any  # auto, true, false
    stream: str | None
    cache_gb: float
    features: str


@dataclass
class Train:
    """The keys of gan-train."""

    name: str
    runs_dir: str
    duration: str
    seed: int
    batch_size: int
    micro_batch: Any  # a number, auto, null
    forecast: bool
    compile: bool
    cuda_graphs: bool | None
    tf32: bool
    cudnn_benchmark: bool
    device: str
    precision: str | None
    workers: int | None
    keep: int
    loss_ema: float
    accept_changes: bool
    overwrite: bool
    init_from: str | None
    allow: list[str]
    json: bool
    on_alarm: str
    every: Every
    metric: Metric
    health: Health
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
class Where:
    """Where the images that a checkpoint was trained on lie now."""

    root: str | None
    packed: str | None
    stream: str | None


@dataclass
class Sample:
    """The keys of gan-sample."""

    ckpt: str
    mode: dict[str, Any]
    out: str | None
    seeds: Any
    count: int | None
    input: str | None
    direction: str
    truncation: float
    cutoff: int | None
    noise: Any  # null, random, constant, none, or a list of them
    label: int | None
    data: Where
    ema: bool
    batch: int
    device: str
    json: bool
    allow: list[str]


@dataclass
class FidMetric:
    which: list[str]
    samples: Any  # a number, or a list of them
    features: str | None
    weights: str | None


@dataclass
class Fid:
    """The keys of gan-fid."""

    ckpt: str | None
    folders: list[str] | None
    metric: FidMetric
    data: Where
    repeats: int
    seed: int
    ema: bool
    batch: int
    device: str
    workers: int | None
    json: bool
    allow: list[str]


@dataclass
class Export:
    """The keys of gan-export."""

    ckpt: str
    format: dict[str, Any]
    out: str | None
    ema: bool
    json: bool
    allow: list[str]


@dataclass
class Report:
    """The keys of gan-report."""

    runs: list[str]
    out: str | None
    json: bool


SCHEMAS = {"train": Train, "data": Pack, "sample": Sample, "fid": Fid, "export": Export, "report": Report}
for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_schema)

# What a number must be; parts check their own.
RANGES = {
    "batch_size": (1, None),
    "micro_batch": (1, None),
    "keep": (0, None),
    "workers": (1, None),
    "count": (1, None),
    "cutoff": (1, None),
    "label": (0, None),
    "batch": (1, None),
    "repeats": (1, None),
    "metric.samples": (2, None),
    "metric.batch": (1, None),
    "metric.patience": (1, None),
    "health.checks": (1, None),
    "health.lasting": (1, None),
    "health.spread": (0, None),
    "health.overfitting": (0, None),
    "health.accuracy": (0, 1),
    "health.explosion": (1, None),
    "health.vanishing": (0, None),
    "health.ada": (0, 1),
    "data.resolution": (4, 1024),
    "data.crop": (4, None),
    "data.margin": (0, 1),
    "data.limit": (1, None),
    "data.validation": (0, None),
    "data.max_rejected": (0, 1),
    "data.raw_limit_gb": (0, None),
    "data.cache_gb": (0, None),
    "ema.ramp": (0, None),
    "loss_ema": (0, 1),
    "model.latent": (1, None),
    "model.channels": (1, None),
}
EFFICIENTNET_SIDE = 160  # pixels that an EfficientNet measures images at
# Features, and what the names of their values end with. FID alone is Inception's or, of digits, their classifier's.
# Other features give numbers on another scale, and so does another input size.
FEATURES = {
    "inception": "",
    "digits": "",
    "clip": "_clip",
    "dinov2": "_dinov2",
    "efficientnet": f"_efficientnet_{EFFICIENTNET_SIDE}",
    "efficientnet_lite2": f"_efficientnet_lite2_{EFFICIENTNET_SIDE}",
}
CHOICES = {
    "direction": ("A2B", "B2A"),
    "device": ("auto", "cuda", "mps", "cpu"),
    "precision": (None, "fp32", "bf16", "fp16"),
    "data.channels": (1, 3),
    "data.resize": ("box", "bicubic", "lanczos", "pad"),
    "metric.features": (None, "auto", *FEATURES),
    "on_alarm": ("warn", "stop"),
    "data.on_device": ("auto", True, False),
    "data.features": ("auto", *FEATURES),
}
# Metrics; which of a metric's values decides what is best, and whether less (1) or more (-1) is better.
METRICS = {
    "fid": ("fid", 1),
    "kid": ("kid", 1),
    "isc": ("isc", -1),
    "prc": ("recall", -1),
    "dc": ("coverage", -1),
    "ppl": ("ppl", 1),
    "successive": ("successive_fid", -1),
}


def features_label(features: str) -> str:
    """What features are called: their kind and, where the input size is a choice of ours, that size."""
    return FEATURES[features].removeprefix("_") or features


def value_name(name: str, features: str) -> str:
    """What the value `name` of a metric is called when it is of these features. A path length has its own."""
    return name if name == "ppl" else name + FEATURES[features]


def deciding(metric: dict[str, Any]) -> str:
    """The value that decides which networks are best, by the metric's settings; "" where nothing is measured."""
    return value_name(METRICS[metric["which"][0]][0], metric["features"]) if metric["which"] else ""
