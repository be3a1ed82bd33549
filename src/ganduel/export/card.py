"""The model card of a generator: its data, its training, its measured quality, and how to use it."""

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
    """The written files, and a text in Markdown that says how to use them."""

    files: list[Path]
    use: str


def write(sampler: "Sampler", folder: Path, exported: Exported, ema: bool) -> Path:
    """Write the card of a generator into the folder of its files. Returns the card's path."""
    path = folder / NAME
    write_text(path, card(sampler, exported.use, ema, measured(sampler)))
    return path


def card(sampler: "Sampler", use: str, ema: bool, quality: str) -> str:
    """The card in Markdown. `use` and `quality` are two of its sections."""
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
    """The quality of a checkpoint as text: its latest rows in the run's metrics.jsonl, else the metrics in the
    checkpoint, else a sentence that says that there are none."""
    log = sampler.path.parent.parent / "metrics.jsonl"
    rows = [row for row, _ in read_rows(log).rows if row["step"] == sampler.step]
    if rows:
        from ganduel.evaluation.evaluate import describe

        with contextlib.suppress(UserError), parsing(log, "a log of metrics"):
            return "\n".join(f"- {describe(row)}" for row in rows[-2:])
    values = ", ".join(f"{name} {value:.4g}" for name, value in sampler.content["metric"].items())
    return values or "Not measured; `gan-fid` does it."
