"""gan-fid: measure a checkpoint, or compare two folders of images."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from ganduel import randomness
from ganduel.commands.sample import beside
from ganduel.config.schema import Fid, FidMetric
from ganduel.data.image_set import ImageSet, Pair
from ganduel.evaluation.evaluate import describe, evaluate, needs_features, versions
from ganduel.evaluation.extractors import Features, find_features, resolved, seen_by_discriminator
from ganduel.evaluation.folders import Folder
from ganduel.evaluation.measure import measure
from ganduel.game import Comparison
from ganduel.sampling.sampler import Sampler
from ganduel.sampling.trained import trained_on
from ganduel.system import distributed
from ganduel.system.device import choose
from ganduel.system.errors import UserError
from ganduel.system.files import writing
from ganduel.system.terminal import say


def main(config: Fid, overrides: list[str]) -> dict[str, Any]:
    """Returns the values with their provenance. Raises UserError unless exactly one of `ckpt` and `folders` is set."""
    if (config.ckpt is None) == (config.folders is None):
        raise UserError("give either ckpt=RUN_OR_FILE or folders=real,fake")
    if config.folders is not None and config.metric.reals == "equal":
        raise UserError("metric.reals=equal draws from a run's real images: give ckpt=RUN_OR_FILE, or metric.reals=all")
    if "modes" in config.metric.which and config.metric.reals == "equal":
        raise UserError("metric.reals=equal has no meaning for metric.which=modes, which compares with no real images")
    counts(config.metric.samples)
    device = choose(config.device)
    distributed.start(device)
    try:
        with distributed.all_or_none():
            return (of_folders if config.ckpt is None else of_checkpoint)(config, device)
    finally:
        distributed.stop()


def of_checkpoint(config: Fid, device: torch.device) -> dict[str, Any]:
    """Compare generated images with real ones. The rows also go into the run's metrics.jsonl, if it exists."""
    assert config.ckpt is not None
    sampler = Sampler(config.ckpt, ema=config.ema, device=str(device), allow=config.allow)
    trained, settings = sampler.config, config.metric
    images, cache = distributed.in_turn(lambda: trained_on(sampler, config.data, config.workers, config.allow))
    features = extractor(settings, trained, images, cache) if needs_features(settings.which) else None
    comparisons = sampler.game.comparisons(sampler.game.generators, images)
    sizes = counts(settings.samples)
    found = []
    for size in sizes:
        repeats = [
            evaluate(
                comparisons if settings.reals == "all" else drawn(comparisons, size, config.seed + repeat),
                features,
                which=settings.which,
                samples=size,
                seed=config.seed + repeat,
                batch=config.batch,
                cache=cache if settings.reals == "all" else None,
                ema=config.ema,
            )
            for repeat in range(config.repeats)
        ]
        row = {**repeats[0], **averaged(repeats)}
        row |= {"text": describe(row), "by": "gan-fid", "ckpt": str(sampler.path), "step": sampler.content["step"]}
        row |= {"images": sampler.content["images_seen"], "repeats": config.repeats, "time": time.strftime("%FT%T")}
        found.append(row)
    if distributed.is_main() and (log := beside(sampler.path) / "metrics.jsonl").exists():
        with writing(log), open(log, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)
    return {"text": table(found), "rows": found} if len(found) > 1 else found[0]


def extractor(settings: FidMetric, trained: dict[str, Any], images: ImageSet | Pair, cache: Path) -> Features:
    """The feature extractor that was asked for, else that of the run whose configuration is `trained`."""
    weights = settings.weights or trained["metric"]["weights"]
    seen = seen_by_discriminator(trained["model"])
    kind = resolved(settings.features or trained["metric"]["features"], weights, seen)
    if kind == seen and distributed.is_main():
        say(f"warning: metric.features={kind}: D saw images through this network, so the distances are too small")
    return distributed.in_turn(lambda: find_features(kind, weights, images, cache))


def drawn(comparisons: list[Comparison], count: int, seed: int) -> list[Comparison]:
    """The comparisons with `count` of their real images, without repetition: other ones for each seed.

    Raises UserError if a comparison has too few.
    """
    found = []
    for one in comparisons:
        if len(one.real) < count:
            raise UserError(
                f"metric.samples={count} with metric.reals=equal: there are {len(one.real):,} real images; set a "
                "smaller metric.samples, or metric.reals=all"
            )
        generator = torch.Generator().manual_seed(randomness.key(seed, "reals", one.name))
        chosen = torch.randperm(len(one.real), generator=generator)[:count]
        found.append(one._replace(real=one.real[chosen.to(one.real.device)]))
    return found


def counts(value: Any) -> list[int]:
    """The numbers of images, as a list. Raises UserError if one is not an integer of 2 or more."""
    found = value if isinstance(value, list) else [value]
    if not found or not all(type(count) is int and count >= 2 for count in found):
        raise UserError(
            f"metric.samples={value} is not allowed; it takes a number of images, 2 or more, or a list of them"
        )
    return found


def averaged(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of every value and, with several rows, its standard deviation as NAME_repeats_std."""
    values = {name: [row[name] for row in rows] for name in rows[0] if isinstance(rows[0][name], float)}
    result = {name: statistics.mean(v) for name, v in values.items()}
    if len(rows) > 1:
        result |= {f"{name}_repeats_std": statistics.stdev(v) for name, v in values.items()}
    return result


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table with one line for each number of images.

    It shows the mean of every value and, with repeats, the standard deviation, also as a share of the mean.
    """
    repeated = rows[0]["repeats"] > 1
    values = [name for name in rows[0] if isinstance(rows[0][name], float) and "_std" not in name]
    kinds = ("mean", "std", "relative") if repeated else ("mean",)
    heads = ["images", *(f"{name}, {kind}" if repeated else name for name in values for kind in kinds)]
    lines = [heads, ["---:"] * len(heads)]
    for row in rows:
        cells = [f"{next(row[key] for key in row if key.startswith('generated')):,}"]
        for name in values:
            mean, std = row[name], row.get(f"{name}_repeats_std", 0.0)
            relative = f"{abs(std / mean):.1%}" if mean else "-"
            cells += [f"{mean:.4g}", f"{std:.2g}", relative] if repeated else [f"{mean:.4g}"]
        lines.append(cells)
    repeats = f"{rows[0]['repeats']} times, with other samples each time; " if repeated else ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{repeats}{rows[-1]['text']}"


def of_folders(config: Fid, device: torch.device) -> dict[str, Any]:
    """Compare two folders of images. The first one holds the real images. Raises UserError."""
    assert config.folders is not None
    if len(config.folders) != 2:
        raise UserError(f"folders={config.folders} is not allowed; it takes two, as in folders=real,fake")
    real, fake = (Folder(path, config.size) for path in config.folders)
    settings = config.metric
    if "ppl" in settings.which:
        raise UserError(
            "metric.which: ppl measures paths in the latent space w, which folders of images do not have; leave it out"
        )
    if "modes" in settings.which:
        raise UserError("metric.which: modes needs a checkpoint, because folders do not say what the modes are")
    kind = resolved(settings.features or "auto", settings.weights)
    features = distributed.in_turn(lambda: find_features(kind, settings.weights, None, Path()))
    values = measure(
        fake.images,
        real.images,
        features,
        settings.which,
        reference=None,
        cache=None,
        device=device,
        batch=config.batch,
    )
    row = {
        **features.named(values),
        "generated": fake.images.count,
        "real": real.images.count,
        "features": features.identity,
        "note": features.note,
        "data": f"{config.folders[0]} {real.identity}"
        + (f" resized to {config.size}x{config.size}" * bool(config.size)),
        "size": config.size,
        "ema": config.ema,
        "seed": config.seed,
        "versions": versions(),
    }
    return {**row, "text": describe(row)}
