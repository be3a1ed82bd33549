"""Random rotation, translation and scaling."""

import math
from typing import Literal

import torch
from torch import Tensor

from ganduel import randomness
from ganduel.augment import Transform

BLACK = -1.0


class Affine(Transform):
    """Rotates every image by up to `rotation` degrees in either direction, scales it by a factor between the two
    numbers of `scale`, and moves it in either direction by up to the shares `translation` of its width and height.

    Beyond the `edges`, the image is mirrored or black. Raises ValueError for numbers out of range.
    """

    def __init__(
        self, rotation: float, translation: list[float], scale: list[float], edges: Literal["mirror", "black"]
    ):
        super().__init__()
        if not 0 <= rotation <= 180:
            raise ValueError(f"rotation={rotation} must be from 0 to 180 degrees")
        if len(translation) != 2 or not all(0 <= share <= 1 for share in translation):
            raise ValueError(f"translation={translation} must be two shares from 0 to 1: [across, down]")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={scale} must be two factors above 0: [smallest, largest]")
        self.rotation, self.translation, self.scale, self.edges = rotation, translation, scale, edges

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        height, width = images.shape[2:]
        turn, size, across, down = randomness.uniform(seed, (4, 1, 1), "affine").unbind(1)  # each (N, 1, 1)
        angle = math.radians(self.rotation) * (2 * turn - 1)
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * size
        # The source of each output pixel: undo the translation, then the rotation and the scaling.
        x = torch.arange(width, device=images.device) - (width - 1) / 2
        y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
        x = x - self.translation[0] * width * (2 * across - 1)
        y = y - self.translation[1] * height * (2 * down - 1)
        x, y = (angle.cos() * x + angle.sin() * y) / factor, (angle.cos() * y - angle.sin() * x) / factor
        x, y = x + (width - 1) / 2, y + (height - 1) / 2
        if self.edges == "mirror":
            return interpolate(images, mirrored(x, width - 1), mirrored(y, height - 1))
        return interpolate(images - BLACK, x, y) + BLACK


def interpolate(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Bilinear values of images (N, C, H, W) at the pixel positions x and y (N, H, W). Pixels beyond the edges are 0.

    Gathers pixels, because some supported versions of PyTorch cannot differentiate grid_sample twice.
    """
    channels, height, width = images.shape[1:]
    left, top = x.floor(), y.floor()
    right, bottom = left + 1, top + 1

    def pixels(x: Tensor, y: Tensor) -> Tensor:
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long().flatten(1)[:, None]
        found = images.flatten(2).gather(2, index.expand(-1, channels, -1)).view(images.shape)
        return found * inside[:, None]

    right_share, bottom_share = (x - left)[:, None].to(images.dtype), (y - top)[:, None].to(images.dtype)
    upper = torch.lerp(pixels(left, top), pixels(right, top), right_share)
    lower = torch.lerp(pixels(left, bottom), pixels(right, bottom), right_share)
    return torch.lerp(upper, lower, bottom_share)


def mirrored(position: Tensor, last: int) -> Tensor:
    """Positions mirrored into [0, last]."""
    return last - (last - position.remainder(2 * max(last, 1))).abs()
