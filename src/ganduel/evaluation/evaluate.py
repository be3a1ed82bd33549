"""One evaluation of a game's generators, with its provenance, for training and for gan-fid."""

import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel import __version__
from ganduel.config.schema import FEATURES, PLAIN
from ganduel.data.image_set import to_bytes
from ganduel.evaluation.extractors import Features
from ganduel.evaluation.measure import FIDELITY_VERSION, Images, measure
from ganduel.evaluation.modes import check_modes, measure_modes
from ganduel.evaluation.paths import path_length
from ganduel.game import WITH_MAPPING, Comparison
from ganduel.system.errors import UserError

# The metrics that `describe` shows, in this order. With several comparisons, the comparison's name is appended.
SHOWN = (
    *("fid", "kid", "isc", "precision", "recall", "density", "coverage", "ppl", "successive_fid"),
    *PLAIN["modes"],
)


def evaluate(
    comparisons: list[Comparison],
    features: Features | None,
    *,
    which: list[str],
    samples: int,
    seed: int,
    batch: int,
    cache: Path | None,
    ema: bool,
    proceed: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The metrics of `samples` generated images, or of the most that a comparison allows, with their provenance.

    With several comparisons, each key ends with the name of its comparison, and the means have keys without a name.
    `features` may be None if no metric needs them. `proceed` is called before every batch and may raise to stop a long
    evaluation. With several processes, only the first returns the metrics; the others return rows without them. Raises
    UserError.
    """
    check_walks(comparisons, which)
    check_modes(comparisons, which)
    row: dict[str, Any] = {}
    notes = [features.note] if features else []
    for comparison in comparisons:
        fake, real, walk = asked(comparison, samples, seed, proceed)
        images, identity = comparison.images, comparison.images.identity(comparison.real)
        values: dict[str, float] = {}
        if (compared := [name for name in which if name not in PLAIN]) and features:
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
        if "modes" in which:

            def make(numbers: range, comparison: Comparison = comparison) -> Tensor:
                proceed()
                return comparison.make(numbers, seed)

            assert cache is not None  # the classifier is kept there
            covered, note = measure_modes(images, make, fake.count, cache, batch)
            values |= covered
            notes.append(note)
        data = f"{images.about['name']} {'x'.join(map(str, images.shape))} {identity}"
        found = {**values, "generated": fake.count, "real": real.count, "data": data}
        row |= {f"{key}{comparison.name}": value for key, value in found.items()}
    return {
        **{key: statistics.mean(row[f"{key}{c.name}"] for c in comparisons) for key in values},
        **row,
        "features": features.identity if features else "none",
        "note": "; ".join(dict.fromkeys(note for note in notes if note)),
        "ema": ema,
        "seed": seed,
        "versions": versions(),
    }


def asked(
    comparison: Comparison, samples: int, seed: int, proceed: Callable[[], None]
) -> tuple[Images, Images, Callable[[range, float], tuple[Tensor, Tensor]]]:
    """The generated images, the real images and the walks of a comparison. Each calls `proceed` before it starts."""
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


def needs_features(which: list[str]) -> bool:
    """Whether these metrics need a feature extractor. "modes" needs none; "ppl" alone gets one that it does not use."""
    return any(name != "modes" for name in which)


def check_walks(comparisons: list[Comparison], which: list[str]) -> None:
    """Raise UserError if "ppl" is wanted and a generator has no intermediate latent space w."""
    if "ppl" in which and any(comparison.walk is None for comparison in comparisons):
        raise UserError(
            f"metric.which: ppl measures paths in the latent space w and needs {WITH_MAPPING}; leave it out"
        )


def versions() -> dict[str, str]:
    """The versions of the software that made a metric or a checkpoint."""
    return {
        "ganduel": __version__,
        "torch": str(torch.__version__),  # PyTorch's own string class, which safe loading of checkpoints refuses
        "torch_fidelity": FIDELITY_VERSION,
        "python": platform.python_version(),
    }


def describe(row: dict[str, Any]) -> str:
    """The metrics and their provenance as one line of text; `row` is a result of `evaluate`."""
    note = f" ({row['note']})" if row["note"] else ""
    names = [key.removeprefix("generated") for key in row if key.startswith("generated")]  # names of the comparisons
    parts = [
        f"{_values(row, name)}: {row[f'generated{name}']:,} generated against {row[f'real{name}']:,} real images"
        f"{_equal(row, name)}, data {row[f'data{name}']}"
        for name in names
    ]
    if len(names) > 1:
        parts.append(f"mean {_values(row)}")
    return (
        f"{'; '.join(parts)}, features {row['features']}{note}, ema {str(row['ema']).lower()}, seed {row['seed']}, "
        + ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    )


def _equal(row: dict[str, Any], name: str) -> str:
    """The number of images that density and coverage use, if that is not all of them."""
    counts = row[f"generated{name}"], row[f"real{name}"]
    unequal = any(f"coverage{suffix}{name}" in row for suffix in FEATURES.values()) and counts[0] != counts[1]
    return f" (density and coverage use {min(counts):,} of each)" if unequal else ""


def _values(row: dict[str, Any], name: str = "") -> str:
    """The metrics of a comparison, with their standard deviations if there were repeats."""
    texts = []
    named = (f"{metric}{suffix}{name}" for suffix in dict.fromkeys(FEATURES.values()) for metric in SHOWN)
    for key in (key for key in named if key in row):
        deviation = row.get(f"{key}_repeats_std")
        texts.append(f"{key} {row[key]:.4g}" + (f" ± {deviation:.2g}" if deviation is not None else ""))
    return ", ".join(texts)
