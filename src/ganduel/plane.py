"""Plots of points in the plane, with the values of a function behind them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import interpolate

PLOTTED = 1000  # points of each kind in a plot
SIDE = 384  # pixels a side of a plot
CELLS = 64  # places a side at which the function is computed
COLOURS = {"real": (0, 114, 178), "fake": (213, 94, 0)}
LOW, HIGH = (255, 226, 204), (198, 224, 240)  # behind the points: the function's smallest and its largest value
PAPER = (255, 255, 255)


def places(span: float) -> Tensor:
    """The points (CELLS^2, 2, 1, 1) of a square lattice from -span to span, row by row from the top."""
    along = (torch.arange(CELLS) + 0.5) * (2 * span / CELLS) - span
    y, x = torch.meshgrid(along.flip(0), along, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2, 1, 1)


def scatter(clouds: Mapping[str, Tensor], span: float, field: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """A plot (3, SIDE, SIDE), uint8, of the square from -span to span, with y upwards.

    `clouds` maps "real" or "fake" to points (N, 2, 1, 1); the later ones lie on top, and what lies outside is not
    shown. `field` maps points to values (N,); the plot's ground shows them, blue where they are large.
    """
    if field is None:
        picture = torch.tensor(PAPER, dtype=torch.uint8)[:, None, None].repeat(1, SIDE, SIDE)
    else:
        picture = _shaded(field(places(span)).cpu().float().reshape(CELLS, CELLS))
    for name, points in clouds.items():
        x, y = points.detach().cpu().double().reshape(-1, 2).nan_to_num(2 * span).clamp(-2 * span, 2 * span).unbind(1)
        column, row = (((value / span + 1) * SIDE / 2).floor().long() for value in (x, -y))
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            rows, columns = row + down, column + right
            seen = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
            picture[:, rows[seen], columns[seen]] = torch.tensor(COLOURS[name], dtype=torch.uint8)[:, None]
    return picture


def _shaded(values: Tensor) -> Tensor:
    """A picture (3, SIDE, SIDE) of values (CELLS, CELLS), from `LOW` for the smallest to `HIGH` for the largest."""
    values = values.nan_to_num()
    least, most = values.min(), values.max()
    share = (values - least) / (most - least).clamp(min=1e-12)
    share = interpolate(share[None, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[0]
    low, high = (torch.tensor(colour, dtype=torch.float32)[:, None, None] for colour in (LOW, HIGH))
    return torch.lerp(low, high, share).round().to(torch.uint8)
