"""Points in the plane, drawn from a mixture of Gaussians with known centres: ring, grid."""

import math

import numpy as np

from ganduel.data.sources._shared import Originals, Points, Source, stamp
from ganduel.system.errors import UserError


def ring(root: str | None, category: None, modes: int, radius: float, std: float, count: int, seed: int) -> Source:
    """`count` points of `modes` Gaussians whose centres lie on a circle around (0, 0), equally far apart.

    The first centre is at (radius, 0). `std` is the standard deviation of x and of y around a centre. `seed` draws the
    points. Raises UserError for values out of range.
    """
    _check(modes=modes, count=count, radius=radius, std=std)
    angles = 2 * math.pi * np.arange(modes) / modes
    return _mixture("ring", radius * np.stack([np.cos(angles), np.sin(angles)], axis=1), std, count, seed)


def grid(root: str | None, category: None, side: int, spacing: float, std: float, count: int, seed: int) -> Source:
    """`count` points of `side` times `side` Gaussians on a square grid around (0, 0), `spacing` apart.

    `std` is the standard deviation of x and of y around a centre. `seed` draws the points. Raises UserError for values
    out of range.
    """
    _check(side=side, count=count, spacing=spacing, std=std)
    along = spacing * (np.arange(side) - (side - 1) / 2)
    return _mixture(
        "grid", np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2), std, count, seed
    )


def _check(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            allowed = "a whole number above 0" if type(value) is int else "a number above 0"
            raise UserError(f"data.source.{name}={value} is not allowed; it takes {allowed}")


def _mixture(name: str, centres: np.ndarray, std: float, count: int, seed: int) -> Source:
    """Points around `centres` (K, 2). All modes are equally likely, and the label of a point is its mode."""

    def scan() -> Originals:
        random = np.random.default_rng(seed)
        modes = random.integers(0, len(centres), count)
        positions = (centres[modes] + std * random.standard_normal((count, 2))).astype(np.float32)
        return Originals(
            [],
            lambda i: positions[i],
            {"train": count},
            {},
            modes.astype(np.int64),
            [f"({x:.3g}, {y:.3g})" for x, y in centres],
            "the modes that points were drawn from",
            points=Points(positions, centres, std),
        )

    return Source(stamp(name, repr((centres.tolist(), std, count, seed))), scan, plane=True)
