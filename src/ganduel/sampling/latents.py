"""Between images: the modes `interpolate` and `mix` of gan-sample."""

from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from ganduel.data.loading import to_bytes
from ganduel.errors import UserError
from ganduel.files import make_folder
from ganduel.sampling import Sampler, parse_seeds
from ganduel.sampling.grids import check_size, save_picture, tile


def interpolate(
    sampler: Sampler,
    seeds: list[int],
    out: Path,
    batch: int,
    space: Literal["z", "w"],
    method: Literal["lerp", "slerp"],
    steps: int,
    video: Literal["none", "gif"],
    fps: int,
) -> Path:
    """A picture with a row for each pair of seeds, or a film of all pairs; returns its path."""
    if len(seeds) % 2:
        raise UserError(f"seeds={seeds}: mode=interpolate goes from one to the next; give an even number of seeds")
    if steps < 1 or not 1 <= fps <= 50:
        raise UserError(f"mode.steps={steps} must be 1 or more, and mode.fps={fps} from 1 to 50")
    frames = path_between(sampler, seeds[0::2], seeds[1::2], space, method, steps, batch)
    if video == "none":
        pairs = len(seeds) // 2
        check_size(pairs, steps + 2, frames.shape[2:])
        rows = frames.unflatten(0, (steps + 2, pairs)).transpose(0, 1).flatten(0, 1)
        return save_picture(tile(rows, steps + 2), out)
    return save_gif([tile(frame) for frame in frames.split(len(seeds) // 2)], out, fps)


def path_between(
    sampler: Sampler, starts: list[int], ends: list[int], space: str, method: str, steps: int, batch: int
) -> Tensor:
    """All starts, `steps` images from each to its end, all ends: uint8 ((steps + 2) * pairs, C, H, W), step by step.

    Noise and class are those of the start, but in the last images, which are the ends themselves.
    """
    a, b = sampler.latents(starts), sampler.latents(ends)
    if space == "w":
        latent, a, b = a, sampler.styles(a, starts), sampler.styles(b, ends)
        if a is latent:
            raise UserError(
                "mode.space=w needs a model with a mapping network: stylegan2_ada, or dcgan with "
                "model.generator.mapping; set mode.space=z"
            )
    between = slerp if method == "slerp" else torch.lerp
    images = []
    for step in range(steps + 2):
        share = step / (steps + 1)
        seeds = starts if share < 1 else ends
        point = a if share == 0 else b if share == 1 else between(a, b, share)
        styles = point if space == "w" else sampler.styles(point, seeds)
        images.append(to_bytes(sampler.paint(styles, seeds, batch)))
    return torch.cat(images)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """From a to b at an even angle (Shoemake 1985), over the last dimension: between normal vectors of many numbers,
    all points have their length."""
    cosine = torch.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[..., None]
    angle = cosine.acos().clamp_min(1e-4)
    return (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()


def mix(sampler: Sampler, seeds: list[int], out: Path, batch: int, columns: Any, layer: int | None) -> Path:
    """One picture: a row a seed, a column a seed of `columns`; returns its path."""
    across = parse_seeds(columns, "mode.columns")
    side, top = (sampler.styles(sampler.latents(some), some) for some in (seeds, across))
    if side.ndim != 3:
        raise UserError("mode=mix needs a model with a style for each layer: stylegan2_ada")
    layers = side.shape[1]
    first = layers // 2 if layer is None else layer
    if not 0 < first < layers:
        raise UserError(f"mode.layer={layer} must be from 1 to {layers - 1}, for there are {layers} layers")
    header = sampler.paint(top, across, batch)
    check_size(len(seeds) + 1, len(across) + 1, header.shape[2:])
    rows = [torch.cat([torch.ones_like(header[:1]), header])]
    for style, seed in zip(side, seeds, strict=True):
        mixed = torch.cat([style[:first].expand(len(top), -1, -1), top[:, first:]], dim=1)
        styles = torch.cat([style[None], mixed])
        rows.append(sampler.paint(styles, [seed] * len(styles), batch))
    return save_picture(tile(to_bytes(torch.cat(rows)), len(across) + 1), out)


def save_gif(frames: list[Tensor], out: Path, fps: int) -> Path:
    """Frames (3, H, W), uint8, there and back for ever; returns the path."""
    path = out if out.suffix else out.with_suffix(".gif")
    if path.suffix != ".gif":
        raise UserError(f"out={out}: mode.video=gif makes a GIF; give a name that ends in .gif")
    make_folder(path.parent, "out")
    pictures = [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in frames]
    pictures += pictures[-2:0:-1]
    temporary = path.with_name(path.name + ".tmp")
    pictures[0].save(
        temporary, format="gif", save_all=True, append_images=pictures[1:], duration=1000 // fps, loop=0, optimize=False
    )
    temporary.replace(path)
    return path
