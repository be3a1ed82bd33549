"""Whether samples are copies of what was trained on: the mode `neighbours` of gan-sample."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel.config.schema import Where, typed
from ganduel.data.loading import ImageSet
from ganduel.pictures import check_size, save_picture
from ganduel.sampling.figures import compose, grid
from ganduel.sampling.sampler import Sampler
from ganduel.sampling.trained import trained_on
from ganduel.system.errors import UserError
from ganduel.system.terminal import progress, say

HELD = 2**26  # numbers of pixels that are compared at once
USUAL = 1000  # held-out images that samples are held against


def neighbours(sampler: Sampler, seeds: list[int], out: Path, batch: int, data: dict[str, Any], count: int) -> Path:
    """One PNG: samples, and beside each the training images that are nearest to it; returns its path.

    Says how near they are, and how near held-out images come to the same training images.
    """
    samples = sampler.bytes(seeds, batch=batch)
    images, _ = trained_on(sampler, typed(Where, data), allow=sampler.allow)
    assert isinstance(images, ImageSet)
    if not 1 <= count <= images.count:
        raise UserError(f"mode.count={count} is not allowed; it takes 1 to {images.count:,}, the training images")
    check_size(len(seeds), count + 1, samples.shape[2:])
    mirror = bool(sampler.config["data"]["mirror"])
    distances, found = nearest(samples, images, count, mirror)
    told = f"nearest training images: {distances[:, 0].median():.3g} grey levels from samples (median)"
    if images.held_out:
        others = images.gather(images.validation[:USUAL]).cpu()
        usual = nearest(others, images, 1, mirror)[0].median()
        told += f", {usual:.3g} from held-out images; samples that are much nearer than these are copies"
    say(told)
    times = max(1, round(640 / (len(seeds) * samples.shape[2])))
    beside = grid("nearest training images, the nearest first", found.flatten(0, 1), count, times)
    return save_picture(compose([[grid("samples", samples, 1, times), beside]]), out)


def nearest(queries: Tensor, images: ImageSet, count: int, mirror: bool) -> tuple[Tensor, Tensor]:
    """The `count` training images that are nearest to each of some images (N, C, H, W), uint8, as they are or, where
    they were trained on like that, mirrored: how far in grey levels (root mean square, (N, count)), and the images
    (N, count, C, H, W), on the CPU."""
    flat = queries.to(images.device).flatten(1).float() - 127.5
    best = torch.full((len(flat), count), torch.inf, device=images.device)
    numbers = torch.zeros((len(flat), count), dtype=torch.int64)
    parts = images.train.split(max(1, HELD // flat.shape[1]))
    for part in progress(iterable=parts, desc="comparing", leave=False):
        real = images.gather(part)
        ways = [real, real.flip(3)] if mirror else [real]
        squares = [torch.cdist(flat, way.flatten(1).float() - 127.5) for way in ways]
        best, chosen = torch.cat([best, torch.stack(squares).amin(0)], dim=1).topk(count, largest=False)
        known = torch.cat([numbers, part.long().expand(len(flat), -1)], dim=1)
        numbers = known.gather(1, chosen.cpu())
    found = torch.stack([images.gather(row).cpu() for row in numbers])
    ways = [found, found.flip(4)] if mirror else [found]
    exact = [(queries[:, None].float() - way.float()).square().mean(dim=(2, 3, 4)).sqrt() for way in ways]
    return torch.stack(exact).amin(0), found  # exactly, for large matrix products round
