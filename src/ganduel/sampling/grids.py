"""The modes `grid` and `images` of gan-sample: all images in one picture, or one file per image."""

import math
from pathlib import Path

import torch

from ganduel.pictures import check_grid, save_picture, save_png, tile
from ganduel.sampling.sampler import Sampler
from ganduel.system.errors import UserError
from ganduel.system.files import make_folder
from ganduel.system.terminal import progress, say


def grid(sampler: Sampler, seeds: list[int], out: Path, batch: int, columns: int | None, scale: int) -> Path:
    """Write one PNG with all images in rows, and return its path. Each pixel becomes a square of `scale` pixels.

    Raises UserError if the picture would be too large, or for a scale below 1.
    """
    if scale < 1:
        raise UserError(f"mode.scale={scale} is not allowed; it takes 1 or more")
    if columns is not None and columns < 1:
        raise UserError(f"mode.columns={columns} is not allowed; it takes 1 or more, or null")
    columns = columns or math.ceil(math.sqrt(len(seeds)))
    height, width = sampler.bytes(seeds[:1]).shape[2:]
    check_grid(math.ceil(len(seeds) / columns), columns, (scale * height, scale * width))
    enlarged = sampler.bytes(seeds, batch=batch).repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    return save_picture(tile(enlarged, columns), out)


def images(sampler: Sampler, seeds: list[int], out: Path, batch: int) -> Path:
    """Write one PNG per image, <seed>.png with six digits, into the folder `out`, and return the folder."""
    if len(sampler.bytes([0, 1])) < 2:
        raise UserError("mode=images writes a file for each image, and points are shown in one plot: set mode=grid")
    if out.suffix:
        raise UserError(f"out={out}: mode=images writes a folder; give a name without {out.suffix}")
    make_folder(out, "out")
    if any((out / f"{seed:06d}.png").exists() for seed in seeds):
        say(f"replaces earlier images of the same seeds in {out}; out=FOLDER keeps both")
    with progress(total=len(seeds), unit=" images") as bar:
        for part in torch.tensor(seeds).split(batch):
            for seed, image in zip(part.tolist(), sampler.bytes(part.tolist(), batch=batch), strict=True):
                save_png(image, out / f"{seed:06d}.png")
            bar.update(len(part))
    return out
