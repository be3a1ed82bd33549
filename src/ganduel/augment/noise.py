"""Noise on what discriminators see."""

import math

from torch import Tensor

from ganduel import randomness
from ganduel.augment import Transform
from ganduel.pace import Clock, Duration, Time


class InstanceNoise(Transform):
    """Normal noise on reals and fakes, so that even far apart they overlap (Sonderby et al. 2017, "Amortised MAP
    Inference for Image Super-resolution", section 3.4; Arjovsky and Bottou 2017).

    Its standard deviation falls from `std` to 0 in a straight line over `fade` ("200 kimg"); null keeps it.
    """

    def __init__(self, std: float, fade: Time | None):
        super().__init__()
        if std < 0:
            raise ValueError(f"std={std} must be at least 0")
        self.std = self.std_now = std
        self.fade = None if fade is None else Duration.parse(fade, "augment.instance_noise.fade")
        self.images = math.inf  # over which it fades

    def start(self, clock: Clock) -> None:
        if self.fade is not None:
            self.images = clock.images(self.fade)

    def at(self, images_seen: int) -> None:
        self.std_now = self.std * max(0.0, 1 - images_seen / self.images)

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        if self.std_now == 0:
            return images
        return images + self.std_now * randomness.normal(seed, tuple(images.shape[1:]), "instance noise")
