"""Perceptual path length: how fast images change along paths in latent space w (Karras et al. 2019, section 4.1)."""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ganduel.evaluation.extractors import hub, needed
from ganduel.system import distributed
from ganduel.system.device import in_batches

STEP = 1e-4  # as a share of the whole path
LARGEST = 256  # most pixels a side of the compared images
LPIPS = (
    "metric.which=ppl",
    {  # file name -> (URL, size)
        "weights-vgg16-lpips.pth": (
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-vgg16-lpips.pth",
            "6 kB",
        ),
        "vgg16-397923af.pth": ("https://download.pytorch.org/models/vgg16-397923af.pth", "528 MB"),
    },
)


def path_length(
    walk: Callable[[range, float], tuple[Tensor, Tensor]], count: int, device: torch.device, batch: int
) -> float:
    """The mean over `count` paths of the distance between two images `STEP` apart, divided by the square of `STEP`.

    `walk` gives the images at the start of the paths and one step further, each (N, C, H, W) in [-1, 1]. As published,
    the distance is LPIPS with VGG16, and the smallest and the largest hundredth of the values are left out. With
    several processes, each handles a block of the paths; the first returns the mean, and the others return nan. Raises
    UserError if the weights are not available.
    """
    similarity, distances = distributed.in_turn(lpips).to(device), []

    def look(numbers: range) -> None:
        near, far = (prepared(images) for images in walk(numbers, STEP))
        distances.append(similarity(near, far).reshape(len(numbers)).double().cpu() / STEP**2)

    with torch.no_grad():
        in_batches(distributed.block(count), batch, look)
    distances = distributed.collect(distances)
    if not distributed.is_main():
        return math.nan
    every = torch.cat(distances).numpy()
    low, high = np.percentile(every, 1, method="lower"), np.percentile(every, 99, method="higher")
    return float(every[(every >= low) & (every <= high)].mean())


def prepared(images: Tensor) -> Tensor:
    """Convert images from [-1, 1] to (N, 3, H, W) from 0 to 255, not rounded, for LPIPS, and shrink those above
    `LARGEST` pixels a side."""
    if images.shape[-1] > LARGEST:
        images = nn.functional.interpolate(images, (LARGEST, LARGEST), mode="area")
    return (images.float().expand(-1, 3, -1, -1) + 1) * 127.5


@functools.cache
def lpips() -> nn.Module:
    """The LPIPS network: from two batches of images (N, 3, H, W) to their distances (N, 1, 1)."""
    why, files = LPIPS
    for file, (url, size) in files.items():
        needed(hub() / "checkpoints" / file, url, why, size)
    from torch_fidelity.utils import create_sample_similarity

    return create_sample_similarity("lpips-vgg16", cuda=False, sample_similarity_dtype="float32", verbose=False)
