"""Images of a set that look alike to an ImageNet network, such as shifted or recoloured copies.

Difference hashes (`data/inspection.py`) find images that were only resized or compressed again. Features also find
images that were moved, cropped a little or given other colours, and different photographs of one scene.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganduel.data.store import Indexed
from ganduel.evaluation.extractors import find_features
from ganduel.system.errors import UserError
from ganduel.system.terminal import progress

BATCH = 64  # images whose features are computed at once
ROWS = 256  # images that are compared with all others at once
MOST = 100_000  # images: their features take half a gigabyte, and comparing them a few minutes
EXACT = "donot_use_mm_for_euclid_dist"  # matrix products are faster, but give a copy a distance above 0


class Alike(NamedTuple):
    """Two different images of a set, by their indices, and the Euclidean distance of their features."""

    distance: float
    image: int
    earlier: int


def pooled(images: Tensor, extractor: nn.Module) -> Tensor:
    """The features (N, F) of images (N, C, H, W), uint8, grey or RGB."""
    return torch.cat([extractor(part)[0] for part in images.expand(-1, 3, -1, -1).split(BATCH)])


@torch.no_grad()
def look_alikes(store: Indexed, features: str, count: int) -> list[Alike]:
    """Compare each image with all earlier ones, and return the `count` nearest pairs, the nearest first.

    `features` names an EfficientNet. Of images with equal pixels, only the first is compared. Raises UserError for more
    than `MOST` images.
    """
    if len(store) > MOST:
        raise UserError(
            f"look_alikes={features} compares at most {MOST:,} images, and these are {len(store):,}: leave it out"
        )
    extractor = find_features(features, None, None, Path()).extractor
    numbers: list[int] = []
    vectors: list[Tensor] = []
    seen: set[bytes] = set()
    for part in progress(iterable=torch.arange(len(store)).split(BATCH), desc="features", leave=False):
        new = []
        images = store.gather(part)
        for i, image in enumerate(images):
            digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                new.append(i)
        numbers += part[new].tolist()
        if new:
            vectors.append(pooled(images[new], extractor))
    pairs = nearest_earlier(torch.cat(vectors))
    return [Alike(distance, numbers[one], numbers[other]) for distance, one, other in pairs[:count]]


def nearest_earlier(vectors: Tensor) -> list[Alike]:
    """For each of the vectors (N, F) but the first, the nearest earlier one; sorted by distance."""
    found: list[Alike] = []
    for rows in torch.arange(1, len(vectors)).split(ROWS):
        distances = torch.cdist(vectors[rows], vectors[: int(rows[-1])], compute_mode=EXACT)
        distances[torch.arange(distances.shape[1]) >= rows[:, None]] = torch.inf
        nearest, earlier = distances.min(dim=1)
        found += map(Alike, nearest.tolist(), rows.tolist(), earlier.tolist())
    return sorted(found)
