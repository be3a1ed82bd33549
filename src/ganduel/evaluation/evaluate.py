"""One measurement of a generator, with its provenance: what training and gan-fid print and store."""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel import __version__, randomness
from ganduel.data.loading import ImageSet, to_bytes
from ganduel.evaluation.fid import FIDELITY_VERSION, Batched, Features, measure


def evaluate(
    sample: Callable[[Tensor], Tensor],
    images: ImageSet,
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
    """The metrics of `samples` generated images against all training images, and all that they depend on.

    `sample` takes seeds (N,) on the device to images (N, C, H, W) in [-1, 1]; `proceed` is called now and then, and may
    raise to end a long measurement.
    """

    def generate(numbers: range) -> Tensor:
        proceed()
        seeds = randomness.seeds(seed, "metric", first=numbers.start, count=len(numbers), device=images.device)
        return to_bytes(sample(seeds))

    def real(numbers: range) -> Tensor:
        proceed()
        return images.gather(images.train[numbers.start : numbers.stop])

    values = measure(
        Batched(generate, samples, batch),
        Batched(real, images.count, batch),
        features,
        which,
        reference=images.fingerprint,
        cache=cache,
        device=images.device,
        batch=batch,
    )
    return {
        **values,
        "generated": samples,
        "real": images.count,
        "features": features.identity,
        "note": features.note,
        "data": f"{images.about['name']} {'x'.join(map(str, images.shape))} {images.fingerprint}",
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
    numbers = [f"{name} {row[name]:.4g}" for name in ("fid", "kid", "isc", "precision", "recall") if name in row]
    note = f" ({row['note']})" if row["note"] else ""
    return (
        f"{', '.join(numbers)}: {row['generated']:,} generated against {row['real']:,} real images, "
        f"features {row['features']}{note}, data {row['data']}, ema {str(row['ema']).lower()}, seed {row['seed']}, "
        + ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    )
