"""One measurement of a game's generators, with its provenance: what training and gan-fid print and store."""

import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel import __version__
from ganduel.data.loading import to_bytes
from ganduel.errors import UserError
from ganduel.evaluation.extractors import Features
from ganduel.evaluation.fid import FIDELITY_VERSION, Images, measure
from ganduel.evaluation.paths import path_length
from ganduel.game import Comparison
from ganduel.schema import FEATURES

# The values that are said, in this order; of several comparisons, with their names at the end.
SHOWN = "fid", "kid", "isc", "precision", "recall", "density", "coverage", "ppl", "successive_fid"


def evaluate(
    comparisons: list[Comparison],
    features: Features,
    *,
    which: list[str],
    samples: int,
    seed: int,
    batch: int,
    cache: Path,
    ema: bool,
    proceed: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The metrics of `samples` generated images, or of as many as there are, and all that they depend on.

    Of several comparisons every value has the name of its comparison at its end, and their means have none. `proceed`
    is called now and then, and may raise to end a long measurement. Of many processes, the first returns the values,
    and the others rows without. Raises UserError.
    """
    check_walks(comparisons, which)
    row: dict[str, Any] = {}
    for comparison in comparisons:
        fake, real, walk = asked(comparison, samples, seed, proceed)
        images, identity = comparison.images, comparison.images.identity(comparison.real)
        values: dict[str, float] = {}
        if compared := [name for name in which if name != "ppl"]:
            values = features.named(
                measure(
                    fake,
                    real,
                    features,
                    compared,
                    reference=identity,
                    cache=cache,
                    device=images.device,
                    batch=batch,
                )
            )
        if "ppl" in which:
            values["ppl"] = path_length(walk, fake.count, images.device, batch)
        data = f"{images.about['name']} {'x'.join(map(str, images.shape))} {identity}"
        found = {**values, "generated": fake.count, "real": real.count, "data": data}
        row |= {f"{key}{comparison.name}": value for key, value in found.items()}
    return {
        **{key: statistics.mean(row[f"{key}{c.name}"] for c in comparisons) for key in values},
        **row,
        "features": features.identity,
        "note": features.note,
        "ema": ema,
        "seed": seed,
        "versions": versions(),
    }


def asked(
    comparison: Comparison, samples: int, seed: int, proceed: Callable[[], None]
) -> tuple[Images, Images, Callable[[range, float], tuple[Tensor, Tensor]]]:
    """The generated and the real images of a comparison, and its walks, each after asking whether to `proceed`."""
    numbered = comparison.real

    def generate(numbers: range) -> Tensor:
        proceed()
        return to_bytes(comparison.make(numbers, seed))

    def real(numbers: range) -> Tensor:
        proceed()
        return comparison.images.gather(numbered[numbers.start : numbers.stop])

    def walk(numbers: range, step: float) -> tuple[Tensor, Tensor]:
        proceed()
        assert comparison.walk is not None
        return comparison.walk(numbers, seed, step)

    count = samples if comparison.most is None else min(samples, comparison.most)
    return Images(generate, count), Images(real, len(numbered)), walk


def check_walks(comparisons: list[Comparison], which: list[str]) -> None:
    """Raise UserError for path lengths of generators without a w."""
    if "ppl" in which and any(comparison.walk is None for comparison in comparisons):
        raise UserError(
            "metric.which: ppl is of walks through w and needs a model with a mapping network: stylegan2_ada, or dcgan "
            "with model.generator.mapping; leave it out"
        )


def versions() -> dict[str, str]:
    """What a number or a checkpoint was made with."""
    return {
        "ganduel": __version__,
        "torch": str(torch.__version__),  # a class of its own, which safe loading refuses
        "torch_fidelity": FIDELITY_VERSION,
        "python": platform.python_version(),
    }


def describe(row: dict[str, Any]) -> str:
    """The values and their provenance as one line."""
    note = f" ({row['note']})" if row["note"] else ""
    names = [key.removeprefix("generated") for key in row if key.startswith("generated")]  # of the comparisons
    parts = [
        f"{_values(row, name)}: {row[f'generated{name}']:,} generated against {row[f'real{name}']:,} real images, "
        f"data {row[f'data{name}']}"
        for name in names
    ]
    if len(names) > 1:
        parts.append(f"mean {_values(row)}")
    return (
        f"{'; '.join(parts)}, features {row['features']}{note}, ema {str(row['ema']).lower()}, seed {row['seed']}, "
        + ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    )


def _values(row: dict[str, Any], name: str = "") -> str:
    """The values of a comparison, of several repeats with their standard deviation."""
    texts = []
    named = (f"{metric}{suffix}{name}" for suffix in dict.fromkeys(FEATURES.values()) for metric in SHOWN)
    for key in (key for key in named if key in row):
        deviation = row.get(f"{key}_repeats_std")
        texts.append(f"{key} {row[key]:.4g}" + (f" ± {deviation:.2g}" if deviation is not None else ""))
    return ", ".join(texts)
