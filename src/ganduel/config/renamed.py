"""Keys and names of older versions, and their present ones.

The command line refuses an old key, and tells the new one. Stored configurations are translated as they are read.
"""

from collections.abc import Mapping
from typing import Any

FADES = "+scheduler@{0}=linear {0}.end=0 {0}.length=VALUE"
STD = "augment.instance_noise.std"
# old key -> (new key, what else the user must know). VALUE stands for the old value, an old group for its keys, too.
KEYS = {
    "pace": ("turns", ""),
    "data.margin": (
        "data.load_size",
        ", in pixels: the size of the packed images, such as 286 for a resolution of 256",
    ),
    "model.replay": ("model.pool_size", ""),
    "augment.instance_noise.fade": (f"schedule.{STD}", ": " + FADES.format(f"schedule.{STD}")),
    "data.augment.instance_noise.fade": (f"schedule.data.{STD}", ": " + FADES.format(f"schedule.data.{STD}")),
}
# old import path -> new one
PATHS = {
    "ganduel.game.NoiseGame": "ganduel.game.LatentGame",
    "ganduel.pace.Pace": "ganduel.turns.Turns",
    "ganduel.regularizers.gradient_penalty": "ganduel.regularizers.GradientPenalty",
    "ganduel.regularizers.dragan": "ganduel.regularizers.DRAGAN",
    "ganduel.regularizers.consistency": "ganduel.regularizers.Consistency",
}
# keys that generators did not have -> the import path of the generator, and what it did without the key
ADDED = (
    ("output_norm", "ganduel.models.dcgan.Generator", False),
    ("norm_last", "ganduel.models.mlp.Generator", False),
)


LINEAR = {"_target_": "ganduel.schedules.linear", "hold": 0.0, "start": None, "end": 0.0, "warmup": None}


def refusal(key: str, value: str) -> str | None:
    """The error text for an old key as a user typed it, with its value; None if the key is not old."""
    for old, (new, note) in KEYS.items():
        if key == old or key.startswith(old + "."):
            now = new + key.removeprefix(old)
            return f"{key} is called {now} now" + (note.replace("VALUE", value) or f": {now}={value}")
    return None


def current(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with today's keys and import paths. A current configuration stays as it is."""
    made: dict[str, Any] = _renamed_paths(config)
    if "pace" in made:
        made["turns"] = made.pop("pace")
    if "margin" in (data := made.get("data") or {}):  # a share of the resolution
        extra = round(data["resolution"] * data.pop("margin"))
        data["load_size"] = data["resolution"] + extra if extra else None
    if "source" in data:
        data.setdefault("labels", "auto")
        data.setdefault("stack", {"count": None, "seed": 0, "of": "train"})
        if data["source"].get("_target_") == "ganduel.data.sources.places":
            data["source"].setdefault("split", "standard")
    for penalty in (made.get("regularizer") or {}).values():  # what was a partial function is a class
        if isinstance(fn := penalty.get("fn"), dict) and fn["_target_"] in PATHS.values():
            fn.pop("_partial_", None)
    if "replay" in (model := made.get("model") or {}):
        model["pool_size"] = model.pop("replay")
    scheduler = made.get("scheduler") or {}
    if scheduler.get("_target_") == "ganduel.schedules.cosine" and "floor" in scheduler:
        scheduler |= {"hold": 0.0, "start": None, "end": scheduler.pop("floor")}
    if made.get("turns"):
        made["turns"] = {"reals": "same", "repeat": False, "top": 1.0, "unroll": 0, "unroll_rate": 0.1, **made["turns"]}
    for key, target, value in ADDED:
        if (part := model.get("generator") or {}).get("_target_") == target:
            part.setdefault(key, value)
    for part in (data.get("augment") or {}).values():
        if part.get("_target_") == "ganduel.augment.affine.Affine":
            part.setdefault("edges", "mirror")
    if "scheduler" in made:
        made.setdefault("schedule", {})
    for path in (("augment",), ("data", "augment")):
        group = made
        for name in path:
            group = group.get(name) or {}
        if fade := group.get("instance_noise", {}).pop("fade", None):
            moved = made["schedule"]
            for name in (*path, "instance_noise"):
                moved = moved.setdefault(name, {})
            moved["std"] = {**LINEAR, "length": fade}
    return made


def _renamed_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _renamed_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed_paths(inner) for inner in value]
    return PATHS.get(value, value) if isinstance(value, str) else value
