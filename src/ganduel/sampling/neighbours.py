"""The mode `neighbours` of gan-sample: are generated images copies of training images?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ganduel.config.schema import Where, typed
from ganduel.data.image_set import ImageSet
from ganduel.evaluation.extractors import efficientnet_besides, find_features, seen_by_discriminator
from ganduel.evaluation.look_alikes import BATCH, EXACT, pooled
from ganduel.pictures import check_grid, save_picture
from ganduel.sampling.figures import arrange, grid
from ganduel.sampling.sampler import Sampler
from ganduel.sampling.trained import trained_on
from ganduel.system.errors import UserError
from ganduel.system.terminal import progress, say

HELD = 2**26  # pixel values that are compared at once
USUAL = 1000  # held-out images whose distances are shown for comparison
By = Literal["auto", "pixels", "efficientnet", "efficientnet_lite2"]


def neighbours(
    sampler: Sampler, seeds: list[int], out: Path, batch: int, data: dict[str, Any], count: int, by: By
) -> Path:
    """Write one PNG with generated images, each beside its nearest training images, and return its path.

    Images are compared `by` their pixels, or by the features of an EfficientNet, which also recognise a copy that is
    shifted or has other colours. "auto" is pixels for models that are measured by the digit classifier. For all others
    it is an EfficientNet that D does not see images through. Prints the median distance to the nearest training image,
    for generated and for held-out images. Raises UserError for a `count` out of range, or if the training images are
    not found.
    """
    samples = sampler.bytes(seeds, batch=batch)
    if len(samples) != len(seeds):
        raise UserError("mode=neighbours compares images, and this model makes points: set mode=compare")
    images, _ = trained_on(sampler, typed(Where, data), allow=sampler.allow)
    assert isinstance(images, ImageSet)
    if not 1 <= count <= images.count:
        raise UserError(f"mode.count={count} is not allowed; it takes 1 to {images.count:,}, the training images")
    check_grid(len(seeds), count + 1, samples.shape[2:])
    if by == "auto" and sampler.config["metric"]["features"] == "digits":
        by = "pixels"
    name = efficientnet_besides(seen_by_discriminator(sampler.config["model"])) if by == "auto" else by
    held_out = images.gather(images.validation[:USUAL]).cpu() if images.held_out else samples[:0]
    if name == "pixels":
        mirror = bool(sampler.config["data"]["mirror"])
        distances, found = nearest(samples, images, count, mirror)
        usual = nearest(held_out, images, 1, mirror)[0] if images.held_out else distances[:0]
    else:  # in one pass, because the features of all training images take long
        both, found = nearest_by_features(torch.cat([samples, held_out]), images, count, name, shown=len(samples))
        distances, usual = both.split([len(samples), len(held_out)])
    unit = "grey levels" if name == "pixels" else f"of {name}'s features"
    told = f"nearest training images: {distances[:, 0].median():.3g} {unit} from samples (median)"
    if images.held_out:
        told += f", {usual[:, 0].median():.3g} from held-out images; samples that are much nearer than these are copies"
    say(told)
    times = max(1, round(640 / (len(seeds) * samples.shape[2])))
    beside = grid("nearest training images, the nearest first", found.flatten(0, 1), count, times)
    return save_picture(arrange([[grid("samples", samples, 1, times), beside]]), out)


def nearest(queries: Tensor, images: ImageSet, count: int, mirror: bool) -> tuple[Tensor, Tensor]:
    """The `count` nearest training images of each query (N, C, H, W), uint8, by pixels.

    Returns the distances, root mean squares in grey levels (N, count), and the images (N, count, C, H, W), both on the
    CPU, the nearest first. `mirror` also compares with mirrored training images.
    """
    flat = queries.to(images.device).flatten(1).float() - 127.5

    def distances(real: Tensor) -> Tensor:
        ways = [real, real.flip(3)] if mirror else [real]
        return torch.stack([torch.cdist(flat, way.flatten(1).float() - 127.5) for way in ways]).amin(0)

    _, numbers = _search(images, len(flat), count, distances, max(1, HELD // flat.shape[1]))
    found = _gathered(images, numbers)
    ways = [found, found.flip(4)] if mirror else [found]
    exact = [(queries[:, None].float() - way.float()).square().mean(dim=(2, 3, 4)).sqrt() for way in ways]
    return torch.stack(exact).amin(0), found  # computed again, because `cdist` is inexact


def nearest_by_features(
    queries: Tensor, images: ImageSet, count: int, features: str, shown: int
) -> tuple[Tensor, Tensor]:
    """Like `nearest`, but by the Euclidean distance of pooled features (1,280 numbers in [0, 6]).

    Returns the distances of all queries, and the images that are nearest to the first `shown` of them.
    """
    extractor = find_features(features, None, images, Path()).extractor.to(images.device)
    with torch.no_grad():
        own = pooled(queries.to(images.device), extractor)

        def distances(real: Tensor) -> Tensor:
            return torch.cdist(own, pooled(real, extractor), compute_mode=EXACT)

        found = _search(images, len(own), count, distances, BATCH)
    return found[0], _gathered(images, found[1][:shown])


def _search(
    images: ImageSet, queries: int, count: int, distances: Callable[[Tensor], Tensor], at_once: int
) -> tuple[Tensor, Tensor]:
    """The distances and the numbers of the `count` nearest training images of each query, both (queries, count).

    `distances` compares all queries with some training images (M, C, H, W) and returns (queries, M).
    """
    best = torch.full((queries, count), torch.inf, device=images.device)
    numbers = torch.zeros((queries, count), dtype=torch.int64)
    for part in progress(iterable=images.train.split(at_once), desc="comparing", leave=False):
        best, chosen = torch.cat([best, distances(images.gather(part))], dim=1).topk(count, largest=False)
        known = torch.cat([numbers, part.long().expand(queries, -1)], dim=1)
        numbers = known.gather(1, chosen.cpu())
    return best.cpu(), numbers


def _gathered(images: ImageSet, numbers: Tensor) -> Tensor:
    """The images (N, count, C, H, W) of numbers (N, count), on the CPU."""
    return torch.stack([images.gather(row).cpu() for row in numbers])
