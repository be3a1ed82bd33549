"""The discriminator of Projected GAN (Sauer et al. 2021, "Projected GANs Converge Faster").

A frozen ImageNet network turns images into feature maps at four levels. Random, frozen 1x1 convolutions mix their
channels and their levels. On each level, a small discriminator judges patches.
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ganduel.models.frozen import Pretrained, freeze
from ganduel.models.layers import initialise_normal, needed, norm2d, normalise_spectrally

STRIDES = 4, 8, 16, 32  # of the levels, in pixels of the network's input
MIXED = 64, 128, 256, 512  # channels of the levels after cross-channel mixing
SMALLEST = 8  # pixels of the feature maps that logits are made from
EMBEDDED = 64  # length of the vectors that compare a patch with a class


class Network(Protocol):
    """What a frozen network must have: a module of PyTorch with this method."""

    def levels(self, images: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) in [-1, 1] to four feature maps (N, C, H / s, W / s), at s = 4, 8, 16 and 32. Gradients
        reach the images."""


def channels_of(network: Pretrained) -> list[int]:
    """The numbers of channels of the four levels. Raises ValueError if the levels are not as `Network` says."""
    device = next((tensor.device for tensor in network.buffers()), None)
    levels = network.levels(torch.zeros(1, 3, 64, 64, device=device, requires_grad=True))
    found, wanted = [tuple(level.shape[2:]) for level in levels], [(64 // s, 64 // s) for s in STRIDES]
    if found != wanted:
        raise ValueError(f"network: the levels of an image of 64x64 pixels must have sizes {wanted}, and have {found}")
    if not all(level.requires_grad for level in levels):
        raise ValueError(
            "network: no gradient reaches the images, so G could not learn; levels must work without no_grad"
        )
    return [level.shape[1] for level in levels]


class Mixing(nn.Module):
    """Cross-channel and cross-scale mixing, random and frozen (section 3.2 of the paper).

    Cross-channel mixing: a 1x1 convolution to 64, 128, 256 and 512 channels on each level. Cross-scale mixing: from the
    smallest level on, add the result of the level below, double the size bilinearly, and reduce the channels by a 1x1
    convolution. So the results have 64, 64, 128 and 256 channels at twice the size of their levels.

    The convolution comes before the enlargement here: both are linear and act on different dimensions, so the order
    does not change the result, and this order needs a quarter of the multiplications.
    """

    def __init__(self, channels: list[int]):
        """`channels` are those of the network's levels."""
        super().__init__()
        self.channels = [MIXED[0], *MIXED[:-1]]
        self.across = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in zip(channels, MIXED, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in zip(MIXED, self.channels, strict=True))
        for layer in [*self.across, *self.down]:
            nn.init.kaiming_normal_(layer.weight)
        freeze(self, persistent=True)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        mixed: list[Tensor] = []
        for level, across, down in reversed([*zip(levels, self.across, self.down, strict=True)]):
            x = across(level)
            x = down(x + mixed[-1] if mixed else x)
            mixed.append(interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))
        return mixed[::-1]


class Judge(nn.Module):
    """Feature maps (N, channels, H, W) of one level to logits of patches, (N, h, w).

    4x4 convolutions halve the size until about 8 pixels are left. The last convolution gives the logits; with classes,
    it gives a vector, which is projected on an embedding of the label (Miyato and Koyama 2018).
    """

    def __init__(self, channels: int, size: int, classes: int, most: int):
        super().__init__()
        halvings = max(0, round(math.log2(size / SMALLEST)))
        layers: list[nn.Module] = []
        for left in reversed(range(halvings)):
            after = min(most, max(64, 512 >> left))
            layers += [
                nn.Conv2d(channels, after, 4, 2, 1, bias=False),
                norm2d("batch", after, running=False),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            channels = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, EMBEDDED if classes else 1, 4, bias=False))
        initialise_normal(self, 0.02)
        normalise_spectrally(self)
        self.embedding = nn.Embedding(classes, EMBEDDED) if classes else None

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:
        y = self.layers(x)
        if self.embedding is None:
            return y[:, 0]
        embedded = self.embedding(needed(label, self.embedding.num_embeddings))
        return (y * embedded[:, :, None, None]).sum(dim=1) / math.sqrt(EMBEDDED)


class Discriminator(nn.Module):
    """Images (N, image_channels, resolution, resolution) in [-1, 1] to the logits (N, L) of all patches on all four
    levels. Losses take their mean, so all patches count alike.

    Images smaller than `input` pixels are first enlarged bilinearly; larger ones stay as they are. `network` is the
    frozen network (see `Network`). `channel_max` limits the channels inside the small discriminators; the paper has
    512. Raises ValueError.
    """

    group_size = 0  # because of batch normalisation, an image's logits depend on the batch

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        classes: int,
        network: nn.Module,
        input: int,
        channel_max: int,
    ):
        super().__init__()
        size = max(resolution, input)
        if size % STRIDES[-1] or size < 64:
            raise ValueError(
                f"input={input} must be a multiple of {STRIDES[-1]} and at least 64: the frozen network halves the "
                f"size five times; at resolution {resolution}, set {max(64, -(-size // 32) * 32)}"
            )
        if image_channels not in (1, 3):
            raise ValueError(
                f"image_channels={image_channels}: the frozen network sees 1 or 3 channels, so it sees no packs; set "
                "model.pack=1"
            )
        if channel_max < 1 or classes < 0:
            raise ValueError(f"channel_max={channel_max} must be at least 1, classes={classes} at least 0")
        self.size, self.classes = size, classes
        self.features = Pretrained(network)
        self.mixing = Mixing(channels_of(self.features))
        self.judges = nn.ModuleList(
            Judge(maps, 2 * size // stride, classes, channel_max)
            for maps, stride in zip(self.mixing.channels, STRIDES, strict=True)
        )

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        x = images.expand(-1, 3, -1, -1)  # a grey image has three equal channels
        if x.shape[-1] < self.size:
            x = interpolate(x, size=(self.size, self.size), mode="bilinear")
        x = x.contiguous(memory_format=torch.channels_last)
        mixed = self.mixing(self.features.levels(x))
        return torch.cat([judge(y, label).flatten(1) for judge, y in zip(self.judges, mixed, strict=True)], dim=1)
