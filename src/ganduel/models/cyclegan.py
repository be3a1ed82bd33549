"""CycleGAN (Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks").

The networks are fully convolutional: what was trained at one size translates images of any other.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

from ganduel.models.layers import Norm, initialise_normal, norm2d

STD = 0.02  # of all first weights (the paper's appendix)


class InstanceNorm(nn.Module):
    """Every feature map of every image to mean 0 and variance 1, without gain and bias."""

    def forward(self, x: Tensor) -> Tensor:
        # Of PyTorch's ways the fastest, in this memory format: next to convolutions the others cost as much as they.
        return group_norm(x.contiguous(), x.shape[1])


def normalisation(kind: Norm, channels: int, *, running: bool) -> nn.Module:
    """As elsewhere, but for the paper's instance normalisation, which learns nothing."""
    return InstanceNorm() if kind == "instance" else norm2d(kind, channels, running=running)


class ResNetGenerator(nn.Module):
    """Images (N, image_channels, H, W) to others of the same shape in (-1, 1), where H and W are multiples of 4.

    Two halvings, `neck` plain 3x3 convolutions (the paper has none, report R4 one), residual blocks, two doublings.
    `padding` is that of all convolutions that keep the size.
    """

    multiple = 4

    def __init__(
        self,
        *,
        image_channels: int,
        channels: int,
        blocks: int,
        neck: int,
        padding: Literal["reflect", "zeros"],
        norm: Norm,
        dropout: float,
    ):
        super().__init__()
        if min(blocks, neck) < 0:
            raise ValueError(f"blocks={blocks} and neck={neck} must be 0 or more")
        inner = 4 * channels

        def convolution(before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
            mode = padding if stride == 1 else "zeros"
            return nn.Conv2d(before, after, kernel, stride, kernel // 2, padding_mode=mode)

        def stage(layer: nn.Module, after: int) -> list[nn.Module]:
            return [layer, normalisation(norm, after, running=True), nn.ReLU(inplace=True)]

        def doubling(before: int, after: int) -> nn.Module:
            return nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)

        self.layers = nn.Sequential(
            *stage(convolution(image_channels, channels, 7), channels),
            *stage(convolution(channels, 2 * channels, 3, stride=2), 2 * channels),
            *stage(convolution(2 * channels, inner, 3, stride=2), inner),
            *(layer for _ in range(neck) for layer in stage(convolution(inner, inner, 3), inner)),
            *(
                Residual(
                    *stage(convolution(inner, inner, 3), inner),
                    *([nn.Dropout(dropout)] if dropout else []),
                    convolution(inner, inner, 3),
                    normalisation(norm, inner, running=True),
                )
                for _ in range(blocks)
            ),
            *stage(doubling(inner, 2 * channels), 2 * channels),
            *stage(doubling(2 * channels, channels), channels),
            convolution(channels, image_channels, 7),
            nn.Tanh(),
        )
        initialise_normal(self, STD)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Residual(nn.Sequential):
    """Adds what its layers make of its input to it."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Skip(nn.Sequential):
    """Sets what its layers make of its input beside it, as further feature maps."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x)], dim=1)


class UNetGenerator(nn.Module):
    """Images (N, image_channels, H, W) to others of the same shape in (-1, 1) (Isola et al. 2017): halved down to one
    pixel at the size trained for and doubled again, each size seeing what there was on the way down.

    So many halvings make 2^depth = `resolution`, of which H and W must be multiples.
    """

    def __init__(self, *, resolution: int, image_channels: int, channels: int, norm: Norm, dropout: float):
        super().__init__()
        depth = int(math.log2(resolution))
        if depth < 4 or 2**depth != resolution:
            allowed = ", ".join(str(2**i) for i in range(4, 11))
            raise ValueError(
                f"resolution={resolution} is not allowed; it takes {allowed}: "
                f"set data.resolution={2 ** max(4, math.ceil(math.log2(resolution)))}"
            )
        self.multiple = resolution
        widths = [channels * min(2**i, 8) for i in range(depth)]
        inside: nn.Module | None = None
        for i in reversed(range(1, depth)):
            before, width, innermost = widths[i - 1], widths[i], inside is None
            # Of a single pixel nothing would be left by a normalisation.
            inner_norm = [] if innermost else [normalisation(norm, width, running=True)]
            middle = [] if inside is None else [inside]
            deep = before == width and not innermost  # as many feature maps as there will be
            inside = Skip(
                nn.LeakyReLU(0.2),
                nn.Conv2d(before, width, 4, 2, 1),
                *inner_norm,
                *middle,
                nn.ReLU(),
                nn.ConvTranspose2d(width if innermost else 2 * width, before, 4, 2, 1),
                normalisation(norm, before, running=True),
                *([nn.Dropout(dropout)] if dropout and deep else []),
            )
        assert inside is not None
        self.layers = nn.Sequential(
            nn.Conv2d(image_channels, channels, 4, 2, 1),
            inside,
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * channels, image_channels, 4, 2, 1),
            nn.Tanh(),
        )
        initialise_normal(self, STD)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class PatchDiscriminator(nn.Module):
    """Images (N, image_channels, H, W) to a map of logits (N, 1, H', W'), each of one patch of the image (Isola et al.
    2017): patches of 70x70 pixels with three halvings (`depth`).

    The paper normalises after all convolutions but the first and the last; `norm_first` after the first as well.
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        channels: int,
        depth: int,
        norm: Norm,
        norm_first: bool,
        dropout: float,
    ):
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth={depth} must be at least 1")
        if resolution < (least := 3 * 2**depth):  # else nothing would be left to judge, or to normalise by
            raise ValueError(
                f"resolution={resolution} is too small for depth={depth}; set data.resolution={least} or more, or a "
                "smaller model.discriminator.depth"
            )
        widths = [image_channels, *(channels * min(2**i, 8) for i in range(depth + 1))]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(before, after, 4, stride=2 if i < depth else 1, padding=1))
            if i > 0 or norm_first:
                layers.append(normalisation(norm, after, running=False))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))
        initialise_normal(self, STD)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
