"""ganduel: config-driven GAN training.

The core in reading order: `game`, `trainer`, `losses`, `regularizers`, then one of `models`.
"""

from typing import Any

__version__ = "0.1.0"


def load(path: str, **settings: Any) -> Any:
    """A checkpoint or run folder as a sampler: `load("runs/x").sample(seeds=range(16))` is float (16, C, H, W) in [-1,
    1]."""
    from ganduel.sampling import Sampler

    return Sampler(path, **settings)
