"""Noise on what discriminators see."""

from torch import Tensor

from ganduel import randomness
from ganduel.augment import Transform


class InstanceNoise(Transform):
    """Normal noise on reals and fakes, so that even far apart they overlap (Sonderby et al. 2017, "Amortised MAP
    Inference for Image Super-resolution", section 3.4; Arjovsky and Bottou 2017).

    Its standard deviation falls from `std` to 0 in a straight line over `fade` thousands of images seen; null keeps it.
    """

    def __init__(self, std: float, fade: float | None):
        super().__init__()
        if std < 0:
            raise ValueError(f"std={std} must be at least 0")
        if fade is not None and fade <= 0:
            raise ValueError(f"fade={fade} must be above 0, in thousands of images, or null")
        self.std, self.fade = std, fade
        self.at(0)

    def at(self, images_seen: int) -> None:
        left = 1.0 if self.fade is None else max(0.0, 1 - images_seen / (1000 * self.fade))
        self.std_now = self.std * left

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        if self.std_now == 0:
            return images
        return images + self.std_now * randomness.normal(seed, tuple(images.shape[1:]), "instance noise")
