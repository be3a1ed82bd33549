"""The mode `neighbours` of gan-sample: are generated images copies of training images?"""

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

HELD = 2**26  # pixel values that are compared at once
USUAL = 1000  # held-out images, as a reference for the distances


def neighbours(sampler: Sampler, seeds: list[int], out: Path, batch: int, data: dict[str, Any], count: int) -> Path:
    """Write one PNG with generated images, each beside its nearest training images, and return its path.

    Prints the median distance to the nearest training image, for generated and for held-out images. Raises UserError
    for a `count` out of range, or if the training images are not found.
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
    """The `count` nearest training images of each query (N, C, H, W), uint8.

    Returns the distances, root mean squares in grey levels (N, count), and the images (N, count, C, H, W), both on the
    CPU, the nearest first. `mirror` also compares with mirrored training images.
    """
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
    return torch.stack(exact).amin(0), found  # computed again, because `cdist` is inexact
