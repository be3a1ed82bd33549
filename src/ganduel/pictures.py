"""Grids of images, and PNG files."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ganduel.system.errors import UserError
from ganduel.system.files import make_folder, replacing, writing
from ganduel.system.terminal import say

APART = 2  # pixels between two images of a grid
LARGEST = 65_535  # pixels a side; image viewers open no larger ones


def tile(images: Tensor, columns: int | None = None) -> Tensor:
    """A grid (3, height, width) of images (N, C, H, W), uint8, `APART`; by default as square as possible.

    One image alone has no edge.
    """
    if len(images) == 1:
        return images[0].expand(3, -1, -1)
    count, _, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = -(-count // columns)
    cells = images.new_full((rows * columns, 3, height + APART, width + APART), 255)
    cells[:count, :, APART:, APART:] = images  # grey images repeat in all colours
    grid = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2)
    return F.pad(grid, (0, APART, 0, APART), value=255)


def save_png(image: Tensor, path: Path) -> None:
    """Write one image (C, H, W), uint8, grey or RGB, atomically."""
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    with writing(path), replacing(path) as temporary:
        Image.fromarray(pixels.cpu().contiguous().numpy()).save(temporary, format="png")


def save_picture(picture: Tensor, out: Path) -> Path:
    """Write a picture (3, H, W), uint8, as a PNG at the user's path `out`, and return the path.

    Raises UserError for another suffix.
    """
    path = chosen(out, ".png", "a picture is a PNG")
    save_png(picture, path)
    return path


def chosen(out: Path, suffix: str, reason: str) -> Path:
    """The path of a file that the user wants at `out`, with a missing suffix added; its folder exists.

    Tells the user if there is such a file, which will be replaced. Raises UserError with the `reason` for another
    suffix.
    """
    if out.name in ("", ".."):  # as in out=.
        raise UserError(f"out={out} is a folder; give the name of a file in it, which ends in {suffix}")
    path = out if out.suffix else out.with_suffix(suffix)
    if path.suffix != suffix:
        raise UserError(f"out={out}: {reason}; give a name that ends in {suffix}")
    make_folder(path.parent, "out")
    if path.exists():
        say(f"replaces the earlier {path}; out=FILE keeps both")
    return path


def check_grid(rows: int, columns: int, size: Sequence[int]) -> None:
    """Raise UserError if a grid of rows x columns images of `size` (height, width) is too large for image viewers."""
    if max(rows * (size[0] + 2), columns * (size[1] + 2)) > LARGEST:
        raise UserError(f"{rows} x {columns} images make a picture of over {LARGEST} pixels a side; take fewer seeds")
