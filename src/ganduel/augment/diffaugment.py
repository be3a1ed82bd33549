"""DiffAugment (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training")."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ganduel import randomness
from ganduel.augment import Transform


class DiffAugment(Transform):
    """Colour, translation and cutout, each as strong as its number says; 0 leaves it out.

    `brightness` is added, up to so much either way; `saturation` and `contrast` are multiplied by 1 plus or minus up to
    so much; `translation` is a share of the size, either way; `cutout` the side of a square, as a share of the image's.
    What is moved in or covered is 0, a mid grey.
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
        """By whole pixels, as many in every direction as often."""
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
        """The square's centre lies anywhere in the image."""
        centres = randomness.uniform(seed, (2, 1), "cutout").unbind(1)  # each (N, 1)
        covered = [
            (torch.arange(size, device=images.device) + 0.5 - centre * size).abs() < self.cutout * size / 2
            for size, centre in zip(images.shape[2:], centres, strict=True)
        ]  # (N, H) and (N, W)
        return images * ~(covered[0][:, None, :, None] & covered[1][:, None, None, :])
