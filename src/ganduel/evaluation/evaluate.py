"""One measurement of a game's generators, with its provenance: what training and gan-fid print and store."""

import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel import __version__
from ganduel.data.loading import ImageSet, to_bytes
from ganduel.evaluation.fid import FIDELITY_VERSION, Batched, Features, measure
from ganduel.game import Comparison


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
    is called now and then, and may raise to end a long measurement.
    """
    row: dict[str, Any] = {}
    for name, make, most, images, numbered in comparisons:

        def generate(numbers: range, make: Callable = make) -> Tensor:
            proceed()
            return to_bytes(make(numbers, seed))

        def real(numbers: range, images: ImageSet = images, numbered: Tensor = numbered) -> Tensor:
            proceed()
            return images.gather(numbered[numbers.start : numbers.stop])

        count = samples if most is None else min(samples, most)
        values = measure(
            Batched(generate, count, batch),
            Batched(real, len(numbered), batch),
            features,
            which,
            reference=images.identity(numbered),
            cache=cache,
            device=images.device,
            batch=batch,
        )
        data = f"{images.about['name']} {'x'.join(map(str, images.shape))} {images.identity(numbered)}"
        found = {**values, "generated": count, "real": len(numbered), "data": data}
        row |= {f"{key}{name}": value for key, value in found.items()}
    return {
        **{key: statistics.mean(row[f"{key}{c.name}"] for c in comparisons) for key in values},
        **row,
        "features": features.identity,
        "note": features.note,
        "ema": ema,
        "seed": seed,
        "versions": versions(),
    }


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
    keys = [f"{metric}{name}" for metric in ("fid", "kid", "isc", "precision", "recall")]
    return ", ".join(f"{key} {row[key]:.4g}" for key in keys if key in row)
