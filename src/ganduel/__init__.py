"""ganduel: config-driven GAN training.

The core in reading order: `game`, `trainer`, `losses`, `regularizers`, then one of `models`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganduel.sampling.sampler import Sampler

__version__ = "0.1.0"


def load(path: str | Path, **settings: Any) -> "Sampler":
    """A `Sampler` of a run folder, a checkpoint or exported weights; `settings` are the arguments of `Sampler`.

        model = load("runs/dcgan-mnist")            # or device="cuda", truncation=0.7, ema=False ...
        model.sample(16, seed=0)                    # float32 (16, C, H, W) in [-1, 1]
        model.bytes([3, 8])                         # uint8 (2, C, H, W), the images of two seeds
        model.translate(photos, "A2B")              # CycleGAN only: uint8 or float (N, C, H, W) of any size
        model.resolution, model.images_seen, model.config["optimizer"]

    The first call imports PyTorch. Raises `system.errors.UserError` if the file cannot be loaded.
    """
    from ganduel.sampling.sampler import Sampler

    return Sampler(path, **settings)
