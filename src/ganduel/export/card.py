"""The model card: what a generator is, what it learnt from and how, how good it was found, and how to use it."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ganduel.config.keys import leaves
from ganduel.config.schema import PATHS
from ganduel.system.errors import UserError
from ganduel.system.files import parsing, read_rows, write_text
from ganduel.system.templates import render

if TYPE_CHECKING:
    from ganduel.sampling.sampler import Sampler

TEMPLATE = Path(__file__).with_name("card.md.jinja")
NAME = "README.md"
SHOWN = ("model", "loss", "regularizer", "augment", "optimizer", "scheduler", "turns", "ema")  # settings that tell
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
    settings = {key: config[key] for key in (*ROOT, *SHOWN)}
    return render(
        TEMPLATE,
        **{key: content[key] for key in ("data", "versions", "images_seen", "step")},
        config=config,
        domains=sampler.game.domains,
        colours="grey" if sampler.channels == 1 else "colour",
        size=f"{sampler.resolution}x{sampler.resolution}",
        parameters=sum(p.numel() for p in sampler.game.generators.parameters()),
        ema=ema,
        use=use,
        quality=quality,
        typed=[line for line in content["overrides"] if line.partition("=")[0] not in PATHS],
        settings=[(key, value) for key, value in leaves(settings) if value not in (None, {}, [])],
    )


def measured(sampler: "Sampler") -> str:
    """Metrics with all that they depend on, where the run's metrics.jsonl has those of this step; else those that the
    checkpoint knows, or that there are none."""
    log = sampler.path.parent.parent / "metrics.jsonl"
    rows = [row for row, _ in read_rows(log).rows if row["step"] == sampler.step]
    if rows:
        from ganduel.evaluation.evaluate import describe

        with contextlib.suppress(UserError), parsing(log, "a log of metrics"):
            return "\n".join(f"- {describe(row)}" for row in rows[-2:])
    values = ", ".join(f"{name} {value:.4g}" for name, value in sampler.content["metric"].items())
    return values or "Not measured; `gan-fid` does it."
