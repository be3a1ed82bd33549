"""The modes `interpolate` and `mix` of gan-sample: interpolation between images, and style mixing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from ganduel.data.image_set import to_bytes
from ganduel.game import WITH_MAPPING
from ganduel.pictures import check_grid, save_picture, tile
from ganduel.sampling.films import save_gif, save_mp4
from ganduel.sampling.sampler import Sampler, parse_seeds
from ganduel.system.errors import UserError
from ganduel.system.terminal import progress

PARALLEL = 1e-6  # sine of an angle; below it, float32 cannot tell the plane of two directions
METHODS = {"z": "slerp", "w": "lerp"}  # latents in w do not lie on a sphere


def interpolate(
    sampler: Sampler,
    seeds: list[int],
    out: Path,
    batch: int,
    space: Literal["z", "w"],
    method: Literal["lerp", "slerp"] | None,
    steps: int | None,
    video: Literal["none", "gif", "mp4"],
    fps: int,
    back: bool,
    scale: int | None,
) -> Path:
    """Write a picture with one row per pair of seeds, or a film with all pairs as tiles, and return its path.

    By default, there are 8 images between the ends in a picture, and 58 in a film, so that it has 60 frames.

    Raises UserError for an odd number of seeds and for settings out of range.
    """
    if len(seeds) % 2:
        raise UserError(f"seeds={seeds}: mode=interpolate needs pairs; give an even number of seeds")
    steps = (8 if video == "none" else 58) if steps is None else steps
    if steps < 1 or not 1 <= fps <= 50:
        raise UserError(f"mode.steps={steps} must be 1 or more, and mode.fps={fps} from 1 to 50")
    if scale is not None and scale < 1:
        raise UserError(f"mode.scale={scale} must be 1 or more, or null")
    frames = walk(sampler, seeds[0::2], seeds[1::2], space, method or METHODS[space], steps, batch)
    if video == "none":
        first = next(frames)
        check_grid(len(first), steps + 2, first.shape[2:])
        return save_picture(tile(torch.stack([first, *frames], dim=1).flatten(0, 1), steps + 2), out)
    tiles = (tile(frame) for frame in progress(iterable=frames, total=steps + 2, unit=" images"))
    if back:
        there = list(tiles)
        tiles = (tile for tile in there + there[-2:0:-1])
    return (save_gif if video == "gif" else save_mp4)(tiles, out, fps, scale)


def walk(
    sampler: Sampler, starts: list[int], ends: list[int], space: str, method: str, steps: int, batch: int
) -> Iterator[Tensor]:
    """The frames of an interpolation, uint8 (pairs, C, H, W): all starts, `steps` frames in between, all ends.

    Points are one plot in each frame. Noise and class are those of the start, except in the last frame, which shows the
    images of the ends. Up to `batch` images are made at once. Raises UserError if `space` is w and the model has no
    mapping network.
    """
    a, b = sampler.latents(starts), sampler.latents(ends)
    if space == "w":
        if not sampler.generator.has_mapping:
            raise UserError(f"mode.space=w needs {WITH_MAPPING}; set mode.space=z")
        a, b = sampler.map_latents(a, starts), sampler.map_latents(b, ends)
    between = slerp if method == "slerp" else torch.lerp
    at_once = max(1, batch // len(starts))
    for first in range(0, steps + 2, at_once):
        points, seeds = [], []
        for step in range(first, min(first + at_once, steps + 2)):
            share = step / (steps + 1)
            points.append(a if share == 0 else b if share == 1 else between(a, b, share))
            seeds += starts if share < 1 else ends
        joined = torch.cat(points)
        w = joined if space == "w" else sampler.map_latents(joined, seeds)
        for frame in sampler.paint(w, seeds, batch).split(len(starts)):
            yield to_bytes(sampler.game.pictures(frame))


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation from a to b (..., N) (Shoemake 1985), with `share` from 0 to 1.

    The direction turns and the length changes at constant speed. Opposite vectors have no unique shortest arc, so one
    of these is taken. For N = 1 the interpolation is linear.
    """
    if a.shape[-1] == 1:
        return torch.lerp(a, b, share)
    start, end = normalize(a, dim=-1), normalize(b, dim=-1)
    ahead = (start * end).sum(dim=-1, keepdim=True)
    across = end - ahead * start
    angle = torch.atan2(across.norm(dim=-1, keepdim=True), ahead)  # accurate near 0 and pi, unlike arccos
    axis = one_hot(start.abs().argmin(dim=-1), a.shape[-1]).to(a)  # never parallel to `start`
    across = torch.where(across.norm(dim=-1, keepdim=True) < PARALLEL, axis, across)
    across = normalize(across - (across * start).sum(dim=-1, keepdim=True) * start, dim=-1)
    length = torch.lerp(a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), share)
    return length * ((share * angle).cos() * start + (share * angle).sin() * across)


def mix(sampler: Sampler, seeds: list[int], out: Path, batch: int, columns: Any, layer: int | None) -> Path:
    """Write one picture with a row per seed and a column per seed of `columns`, and return its path.

    Layers below `layer` get the w of the row, the others the w of the column. Raises UserError for a model without a
    w per layer, and for a `layer` out of range.
    """
    across = parse_seeds(columns, "mode.columns")
    side, top = (sampler.map_latents(sampler.latents(some), some) for some in (seeds, across))
    if side.ndim != 3:
        raise UserError("mode=mix needs a model with a w for each layer: stylegan2_ada, projected_stylegan2")
    layers = side.shape[1]
    first = layers // 2 if layer is None else layer
    if not 0 < first < layers:
        raise UserError(f"mode.layer={layer} must be from 1 to {layers - 1}, for there are {layers} layers")
    header = sampler.paint(top, across, batch)
    check_grid(len(seeds) + 1, len(across) + 1, header.shape[2:])
    rows = [torch.cat([torch.ones_like(header[:1]), header])]
    for w, seed in zip(side, seeds, strict=True):
        mixed = torch.cat([w[:first].expand(len(top), -1, -1), top[:, first:]], dim=1)
        row = torch.cat([w[None], mixed])
        rows.append(sampler.paint(row, [seed] * len(row), batch))
    return save_picture(tile(to_bytes(torch.cat(rows)), len(across) + 1), out)
