"""Noise on all images that a discriminator sees."""

import math
from types import MappingProxyType

import torch
from torch import Tensor

from ganduel import randomness
from ganduel.augment import Transform
from ganduel.clock import Clock, Duration, Time


class InstanceNoise(Transform):
    """Normal noise on real and fake images, so that their distributions overlap (Sonderby et al. 2017, "Amortised MAP
    Inference for Image Super-resolution", section 3.4; Arjovsky and Bottou 2017).

    Its standard deviation falls linearly from `std` to 0 over the time `fade`, as in "200 kimg". With None it stays
    `std`. Raises ValueError for a negative `std`, and UserError for a `fade` that is not a duration.
    """

    capturable = True
    dials = MappingProxyType({"std": math.inf})
    std: Tensor
    std_now: Tensor

    def __init__(self, std: float, fade: Time | None):
        super().__init__()
        if std < 0:
            raise ValueError(f"std={std} must be at least 0")
        self.gone = False
        self.register_buffer("std", torch.tensor(float(std)), persistent=False)
        self.register_buffer("std_now", torch.tensor(float(std)), persistent=False)
        self.fade = None if fade is None else Duration.parse(fade, "augment.instance_noise.fade")

    def at(self, clock: Clock) -> None:
        share = 1.0 if self.fade is None else max(0.0, 1 - clock.passed(self.fade))
        torch.mul(self.std, share, out=self.std_now)
        self.gone = share == 0

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        if self.gone:
            return images
        return images + self.std_now * randomness.normal(seed, tuple(images.shape[1:]), "instance noise")
