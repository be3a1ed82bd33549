"""The model card: what a generator is, what it learnt from and how, how good it was found, and how to use it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ganduel.config.keys import leaves
from ganduel.config.schema import PATHS
from ganduel.system.files import write_text

if TYPE_CHECKING:
    from ganduel.sampling.sampler import Sampler

NAME = "README.md"
SHOWN = ("model", "loss", "regularizer", "augment", "optimizer", "scheduler", "pace", "ema")  # settings that tell
ROOT = ("batch_size", "duration", "precision", "seed")


class Exported(NamedTuple):
    """What was written, and how it is used, in Markdown."""

    files: list[Path]
    use: str


def write(sampler: "Sampler", folder: Path, exported: Exported, ema: bool) -> Path:
    """Beside the files; returns its path."""
    path = folder / NAME
    write_text(path, card(sampler, exported.use, ema, measured(sampler)))
    return path


def card(sampler: "Sampler", use: str, ema: bool, quality: str) -> str:
    """The text."""
    content, config = sampler.content, sampler.config
    data, versions = content["data"], content["versions"]
    colours = "grey" if sampler.channels == 1 else "colour"
    size = f"{sampler.resolution}x{sampler.resolution} pixels"
    what = {
        ("real",): f"It draws {colours} images of {size} from noise.",
        ("A", "B"): f"It translates {colours} images between two domains, A and B, trained at {size}; A2B and B2A are "
        "its two generators.",
    }[sampler.game.domains]
    parameters = sum(p.numel() for p in sampler.game.generators.parameters())
    kind = "averaged over training (EMA)" if ema else "as trained, not averaged"
    splits = ", ".join(f"{name} {count:,}" for name, count in data["splits"].items())
    settings = {key: config[key] for key in ROOT} | {key: config[key] for key in SHOWN}
    rows = [f"| `{key}` | `{value}` |" for key, value in leaves(settings) if value not in (None, {}, [])]
    typed = [line for line in content["overrides"] if line.partition("=")[0] not in PATHS]
    return TEMPLATE.format(
        name=config["name"],
        model=config["model"]["name"],
        what=what,
        networks=f"Weights: {kind}, {parameters:,} parameters, after {content['images_seen']:,} real images "
        f"({content['step']:,} steps of the generator).",
        use=use,
        data=f"`{data['name']}`: {data['images']:,} images ({splits}), fingerprint `{data['fingerprint']}`.",
        typed=" ".join(["gan-train", *typed]),
        settings="\n".join(rows),
        quality=quality,
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )


def measured(sampler: "Sampler") -> str:
    """Metrics with all that they depend on, where the run's metrics.jsonl has those of this step; else those that the
    checkpoint knows, or that there are none."""
    log = sampler.path.parent.parent / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    rows = [row for row in map(json.loads, lines) if row["step"] == sampler.step]
    if rows:
        from ganduel.evaluation.evaluate import describe

        return "\n".join(f"- {describe(row)}" for row in rows[-2:])
    values = ", ".join(f"{name} {value:.4g}" for name, value in sampler.content["metric"].items())
    return values or "Not measured; `gan-fid` does it."


TEMPLATE = """\
# {name}

A `{model}` generator, trained with ganduel. {what}

{networks}

## Use

{use}

## Data

{data}

What it was trained on decides what it draws, and whose rights and likenesses that touches: look into both before
passing on the weights or their images.

## Quality

{quality}

Such figures compare only where data, features and numbers of images are the same.

## Training

`{typed}`

| setting | value |
|---|---|
{settings}

Made with {versions}.
"""
