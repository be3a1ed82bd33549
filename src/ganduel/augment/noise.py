"""Noise on all images that a discriminator sees."""

import math
from types import MappingProxyType

import torch
from torch import Tensor

from ganduel import randomness
from ganduel.augment import Transform


class InstanceNoise(Transform):
    """Normal noise on real and fake images, so that their distributions overlap (Sonderby et al. 2017, "Amortised MAP
    Inference for Image Super-resolution", section 3.4; Arjovsky and Bottou 2017).

    `std` is its standard deviation. A schedule can let it fade. Raises ValueError for a negative `std`.
    """

    dials = MappingProxyType({"std": math.inf})
    std: Tensor

    def __init__(self, std: float):
        super().__init__()
        if std < 0:
            raise ValueError(f"std={std} must be at least 0")
        self.register_buffer("std", torch.tensor(float(std)), persistent=False)

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        return images + self.std * randomness.normal(seed, tuple(images.shape[1:]), "instance noise")
