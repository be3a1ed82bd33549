"""The residual networks of "Improved Training of Wasserstein GANs" (Gulrajani et al. 2017), for 16, 32, 64, 128 or 256
pixels.

Blocks double or halve the size between 4x4 pixels and the image. There are `channels` feature maps at the image's
resolution, and twice as many at each lower resolution, up to 8 times `channels`.
"""

import math
from itertools import pairwise

from torch import Tensor, nn

from ganduel import game
from ganduel.models.convolution import Conv2d
from ganduel.models.layers import Norm, norm2d, normalise_spectrally

SIZES = (16, 32, 64, 128, 256)


def widths(resolution: int, channels: int) -> list[int]:
    """Numbers of feature maps at `resolution`, `resolution` / 2, ..., 4 pixels. Raises ValueError for other sizes."""
    if resolution not in SIZES:
        fits = min((size for size in SIZES if size > resolution), default=SIZES[-1])
        raise ValueError(
            f"resolution={resolution} is not allowed; it takes {', '.join(map(str, SIZES))}: set data.resolution={fits}"
            ", with data.resize=pad to frame smaller images instead of enlarging them"
        )
    if channels < 1:
        raise ValueError(f"channels={channels} must be at least 1")
    return [channels * min(2**i, 8) for i in range(int(math.log2(resolution // 4)) + 1)]


class Block(nn.Module):
    """Two 3x3 convolutions, each after a normalisation and ReLU, plus a 1x1 shortcut.

    `up` doubles the size before the first convolution. Otherwise 2x2 average pooling halves it after the second.
    """

    def __init__(self, before: int, after: int, norm: Norm, *, up: bool):
        super().__init__()
        inner = after if up else before
        resize = nn.Upsample(scale_factor=2) if up else nn.AvgPool2d(2)
        first, second = Conv2d(before, inner, 3, padding=1, bias=False), Conv2d(inner, after, 3, padding=1)
        self.branch = nn.Sequential(
            norm2d(norm, before, running=up),
            nn.ReLU(),  # not in place: without a norm it would overwrite the shortcut's input
            *([resize, first] if up else [first]),
            norm2d(norm, inner, running=up),
            nn.ReLU(inplace=True),
            *([second] if up else [second, resize]),
        )
        self.shortcut = nn.Sequential(resize, Conv2d(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


def initialise(network: nn.Module) -> None:
    """Xavier-uniform weights (Glorot and Bengio 2010), with twice the variance after a ReLU (He et al. 2015), as in the
    authors' code. Biases are 0."""
    for sequence in (module for module in network.modules() if isinstance(module, nn.Sequential)):
        gain = 1.0
        for layer in sequence:
            if isinstance(layer, nn.ReLU):
                gain = math.sqrt(2)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight, gain)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


class Generator(game.Generator):
    """Latent (N, latent) to images (N, image_channels, resolution, resolution) in (-1, 1)."""

    def __init__(self, *, resolution: int, image_channels: int, latent: int, channels: int, norm: Norm):
        super().__init__()
        if latent < 1:
            raise ValueError(f"latent={latent} must be at least 1")
        self.latent = latent
        sizes = widths(resolution, channels)[::-1]
        self.layers = nn.Sequential(
            nn.Linear(latent, sizes[0] * 16),
            nn.Unflatten(1, (sizes[0], 4, 4)),
            *(Block(before, after, norm, up=True) for before, after in pairwise(sizes)),
            norm2d(norm, channels, running=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, image_channels, 3, padding=1),
            nn.Tanh(),
        )
        initialise(self)

    def synthesis(self, w: Tensor, seed: Tensor | None = None) -> Tensor:
        return self.layers(w)


class Discriminator(nn.Module):
    """Images (N, image_channels, resolution, resolution) to logits (N,)."""

    def __init__(self, *, resolution: int, image_channels: int, channels: int, norm: Norm, spectral_norm: bool):
        super().__init__()
        self.group_size = 0 if norm == "batch" or spectral_norm else 1  # 1: an image's logit ignores the others
        sizes = widths(resolution, channels)
        self.layers = nn.Sequential(
            Conv2d(image_channels, channels, 3, padding=1),
            *(Block(before, after, norm, up=False) for before, after in pairwise(sizes)),
            nn.Flatten(),
            nn.Linear(sizes[-1] * 16, 1),
        )
        initialise(self)
        if spectral_norm:
            normalise_spectrally(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()
