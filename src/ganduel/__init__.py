"""ganduel: config-driven GAN training.

The core in reading order: `game`, `trainer`, `losses`, `regularizers`, then one of `models`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganduel.api import Run
    from ganduel.sampling.sampler import Sampler

from ganduel.system.errors import UserError

__all__ = ["UserError", "load", "open_run", "train"]
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


def train(*overrides: str, **keys: Any) -> "Run":
    """Train as gan-train does, with the same arguments, and return the run.

        run = train("model=dcgan", "data=digits", "optimizer.G.lr=5e-4", duration="500 steps")
        run.sample(16)                              # a picture that a notebook shows; .tensor is uint8 (16, C, H, W)
        run.measure("metric.which=[fid]")           # as gan-fid does
        run.history["loss/G"]                       # columns; pandas.DataFrame(run.history) makes a table

    The same call goes on with a run that was interrupted, and returns a finished one. Raises `UserError` for any
    mistake in the arguments, and KeyboardInterrupt once an interrupted run is saved.
    """
    from ganduel.api import train

    return train(*overrides, **keys)


def open_run(path: str | Path) -> "Run":
    """The `Run` of a folder that gan-train has made. Imports no PyTorch. Raises `UserError` if it is none."""
    from ganduel.api import Run

    return Run(path)
