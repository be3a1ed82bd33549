"""gan-fid: measure a checkpoint, or two folders of images."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

from ganduel.device import choose
from ganduel.errors import UserError
from ganduel.evaluation.evaluate import describe, evaluate, versions
from ganduel.evaluation.fid import Folder, find_features, measure
from ganduel.sample import beside
from ganduel.sampling import Sampler
from ganduel.sampling.trained import trained_on


def main(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Returns the values with their provenance."""
    if (config["ckpt"] is None) == (config["folders"] is None):
        raise UserError("give either ckpt=RUN_OR_FILE or folders=[real,fake]")
    return of_folders(config) if config["ckpt"] is None else of_checkpoint(config)


def of_checkpoint(config: dict[str, Any]) -> dict[str, Any]:
    """Measure what is generated against real images; the row is also appended to the run's metrics.jsonl."""
    device = choose(config["device"])
    sampler = Sampler(config["ckpt"], ema=config["ema"], device=str(device), allow=config["allow"])
    trained, settings = sampler.config, config["metric"]
    images, cache = trained_on(sampler, config["data"], config["workers"], config["allow"])
    kind = settings["features"] or trained["metric"]["features"]
    features = find_features(kind, settings["weights"] or trained["metric"]["weights"], images, cache)
    rows = [
        evaluate(
            sampler.game.comparisons(sampler.game.generators, images),
            features,
            which=settings["which"],
            samples=settings["samples"],
            seed=config["seed"] + repeat,
            batch=config["batch"],
            cache=cache,
            ema=config["ema"],
        )
        for repeat in range(config["repeats"])
    ]
    row = {**rows[0], **spread(rows)}
    row |= {
        "text": describe(row),
        "by": "gan-fid",
        "ckpt": str(sampler.path),
        "step": sampler.content["step"],
    }
    row |= {"images": sampler.content["images_seen"], "time": time.strftime("%FT%T")}
    if (log := beside(sampler.path) / "metrics.jsonl").exists():
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return row


def spread(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean and, of several, standard deviation of every value."""
    values = {name: [row[name] for row in rows] for name in rows[0] if isinstance(rows[0][name], float)}
    result = {name: statistics.mean(v) for name, v in values.items()}
    if len(rows) > 1:
        result |= {f"{name}_repeats_std": statistics.stdev(v) for name, v in values.items()}
    return result


def of_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Compare two folders of images, real first."""
    if len(config["folders"]) != 2:
        raise UserError(f"folders={config['folders']} is not allowed; it takes two, as in folders=[real,fake]")
    real, fake = (Folder(path) for path in config["folders"])
    settings = config["metric"]
    features = find_features(settings["features"] or "inception", settings["weights"], None, Path())
    values = measure(
        fake,
        real,
        features,
        settings["which"],
        reference=None,
        cache=None,
        device=choose(config["device"]),
        batch=config["batch"],
    )
    row = {
        **values,
        "generated": len(fake),
        "real": len(real),
        "features": features.identity,
        "note": features.note,
        "data": f"{config['folders'][0]} {real.identity}",
        "ema": config["ema"],
        "seed": config["seed"],
        "versions": versions(),
    }
    return {**row, "text": describe(row)}


if __name__ == "__main__":
    from ganduel import cli

    cli.fid()
