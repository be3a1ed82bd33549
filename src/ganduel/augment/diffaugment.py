"""DiffAugment (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training")."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ganduel import randomness
from ganduel.augment import Transform


class DiffAugment(Transform):
    """Colour changes, translation and cutout. A strength of 0 switches one off.

    Adds up to +-`brightness` to pixels in [-1, 1]. Scales saturation by a factor in 1 +- `saturation`, contrast by one
    in 1 +- `contrast`. Moves the image by up to the share `translation` of its size in each direction. Covers a square
    whose side is the share `cutout` of the image's. New and covered pixels are 0, mid grey.

    Raises ValueError for a negative brightness, or another strength outside [0, 1].
    """

    def __init__(self, brightness: float, saturation: float, contrast: float, translation: float, cutout: float):
        super().__init__()
        strengths = {"saturation": saturation, "contrast": contrast, "translation": translation, "cutout": cutout}
        for name, strength in strengths.items():
            if not 0 <= strength <= 1:
                raise ValueError(f"{name}={strength} must be from 0 to 1")
        if brightness < 0:
            raise ValueError(f"brightness={brightness} must be at least 0")
        self.brightness, self.saturation, self.contrast = brightness, saturation, contrast
        self.translation, self.cutout = translation, cutout

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        if self.brightness or self.saturation or self.contrast:
            images = self.coloured(images, seed)
        if self.translation:
            images = self.translated(images, seed)
        return self.cut(images, seed) if self.cutout else images

    def coloured(self, images: Tensor, seed: Tensor) -> Tensor:
        draws = 2 * randomness.uniform(seed, (3, 1, 1, 1), "colour").to(images.dtype) - 1
        brightness, saturation, contrast = draws.unbind(1)  # each (N, 1, 1, 1)
        images = images + self.brightness * brightness
        images = torch.lerp(images.mean(dim=1, keepdim=True), images, 1 + self.saturation * saturation)
        return torch.lerp(images.mean(dim=(1, 2, 3), keepdim=True), images, 1 + self.contrast * contrast)

    def translated(self, images: Tensor, seed: Tensor) -> Tensor:
        """Images moved by whole pixels. All shifts are equally likely."""
        channels, height, width = images.shape[1:]
        most = [int(self.translation * size + 0.5) for size in (height, width)]
        draws = randomness.uniform(seed, (2, 1), "translation").unbind(1)  # each (N, 1)
        rows, columns = (
            torch.arange(size, device=images.device) + ((2 * reach + 1) * draw).long().clamp(max=2 * reach)
            for size, reach, draw in zip((height, width), most, draws, strict=True)
        )  # (N, H) and (N, W), in the padded image
        images = pad(images, (most[1], most[1], most[0], most[0]))
        images = images.gather(2, rows[:, None, :, None].expand(-1, channels, -1, images.shape[3]))
        return images.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))

    def cut(self, images: Tensor, seed: Tensor) -> Tensor:
        """Images with a square covered. Its centre is uniform over the image."""
        centres = randomness.uniform(seed, (2, 1), "cutout").unbind(1)  # each (N, 1)
        covered = [
            (torch.arange(size, device=images.device) + 0.5 - centre * size).abs() < self.cutout * size / 2
            for size, centre in zip(images.shape[2:], centres, strict=True)
        ]  # (N, H) and (N, W)
        return images * ~(covered[0][:, None, :, None] & covered[1][:, None, None, :])
