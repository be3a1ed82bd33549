"""DCGAN (Radford, Metz and Chintala 2016) with the widths and the initialisation of PyTorch's tutorial, at any square
size."""

import math
from itertools import pairwise

from torch import Tensor, nn

from ganduel.models.layers import Norm, initialise_normal, norm2d


def stages(resolution: int, depth: int | None) -> tuple[int, int]:
    """(number of factors 2 between the smallest feature maps and the image, size of the smallest).

    By default as many as leave 4 to 7 pixels: 64 is 4 times 2^4, 28 is 7 times 2^2.
    """
    if resolution < 16:
        raise ValueError(f"resolution={resolution} is too small for convolutions: 16 or more")
    deepest = int(math.log2(resolution / 4))
    if depth is None:
        depth = deepest
    if not 1 <= depth <= deepest:
        raise ValueError(f"depth={depth} does not fit resolution {resolution}: 1 to {deepest}, or null for {deepest}")
    return depth, math.ceil(resolution / 2**depth)


class Generator(nn.Module):
    """Latent (N, latent) to images (N, image_channels, resolution, resolution) in (-1, 1).

    `depth` transposed convolutions double the size, from `channels * 2^(depth - 1)` feature maps to the image. A size
    that is no multiple of 2^depth is cut from the middle of the next larger one.
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        latent: int,
        channels: int,
        depth: int | None,
        norm: Norm,
    ):
        super().__init__()
        if min(latent, channels) < 1:
            raise ValueError(f"latent={latent} and channels={channels} must be at least 1")
        self.latent, self.resolution = latent, resolution
        depth, base = stages(resolution, depth)
        widths = [channels * 2**i for i in reversed(range(depth))]
        bias = norm == "none"
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent, widths[0], base, bias=bias),
            norm2d(norm, widths[0], running=True),
            nn.ReLU(inplace=True),
        ]
        for before, after in pairwise(widths):
            layers += [
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=bias),
                norm2d(norm, after, running=True),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(channels, image_channels, 4, stride=2, padding=1, bias=bias), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        initialise_normal(self, 0.02)

    def forward(self, latent: Tensor) -> Tensor:
        images = self.layers(latent[:, :, None, None])
        margin = (images.shape[-1] - self.resolution) // 2
        return images[..., margin : margin + self.resolution, margin : margin + self.resolution]


class Discriminator(nn.Module):
    """Images (N, image_channels, resolution, resolution) to logits (N,): the generator's mirror image, strided
    convolutions."""

    def __init__(self, *, resolution: int, image_channels: int, channels: int, depth: int | None, norm: Norm):
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels={channels} must be at least 1")
        depth, _ = stages(resolution, depth)
        widths = [channels * 2**i for i in range(depth)]
        bias = norm == "none"
        layers: list[nn.Module] = [
            nn.Conv2d(image_channels, channels, 4, stride=2, padding=1, bias=bias),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 4, stride=2, padding=1, bias=bias),
                norm2d(norm, after, running=False),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers += [nn.Conv2d(widths[-1], 1, resolution // 2**depth, bias=bias)]
        self.layers = nn.Sequential(*layers)
        initialise_normal(self, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()
