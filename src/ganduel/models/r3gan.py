"""The networks of R3GAN (Huang et al. 2024, "The GAN is dead; long live the GAN!"), for 16, 32, ... 1024 pixels.

Both are plain residual networks without normalisation. D is the mirror image of G. Every size has a stage of residual
blocks, with 1x1 and grouped 3x3 convolutions. Between two stages, a filter doubles or halves the size.
"""

import math

import torch
from torch import Tensor, nn

from ganduel import game
from ganduel.models.convolution import SLOPE, Conv2d, Resample, activate
from ganduel.models.layers import needed
from ganduel.models.stylegan2_layers import own_precision, widths

EXPANSION = 2  # channels inside a block over those between blocks


def initialise(weight: Tensor, gain: float = 1.0) -> None:
    """Normal numbers of standard deviation `gain` / sqrt(inputs), with one row of `weight` for each output."""
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))


def convolution(before: int, after: int, *, size: int = 1, groups: int = 1, gain: float = 1.0) -> Conv2d:
    """A convolution (N, before, H, W) to (N, after, H, W) without bias, with kernels of `size` pixels."""
    layer = Conv2d(before, after, size, padding=size // 2, groups=groups, bias=False)
    initialise(layer.weight, gain)
    return layer


class Activation(nn.Module):
    """Add a bias per channel to feature maps, then leaky ReLU. Changes its input, which nothing else may use."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return activate(x, None, self.bias)


class Block(nn.Module):
    """A residual block on (N, channels, H, W): 1x1 to twice the channels, 3x3 in groups of `group`, 1x1 back.

    The last convolution starts at 0, so the block starts as the identity. `blocks` is the number of blocks of the
    network: with more blocks, the first weights are smaller (Zhang et al. 2019, "Fixup Initialization").
    """

    def __init__(self, channels: int, group: int, blocks: int):
        super().__init__()
        inner = EXPANSION * channels
        if group < 1 or inner % group:
            raise ValueError(f"group={group} must divide {inner}, the channels inside a block of {channels} channels")
        gain = math.sqrt(2 / (1 + SLOPE**2)) * blocks**-0.25
        self.layers = nn.Sequential(
            convolution(channels, inner, gain=gain),
            Activation(inner),
            convolution(inner, inner, size=3, groups=inner // group, gain=gain),
            Activation(inner),
            convolution(inner, channels, gain=0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def transition(before: int, after: int, *, up: bool) -> nn.Sequential:
    """Twice (`up`) or half the size, with a 1x1 convolution at the smaller size if the number of channels changes."""
    change = [] if before == after else [convolution(before, after)]
    if up:
        return nn.Sequential(*change, Resample(up=2, padding=(2, 1), gain=4.0))
    return nn.Sequential(Resample(down=2, padding=(1, 1)), *change)


def stages(maps: dict[int, int], group: int, blocks: int) -> nn.ModuleDict:
    """The residual blocks of every size, by the size as text. `maps` holds the number of channels by size."""
    if blocks < 1:
        raise ValueError(f"blocks={blocks} must be at least 1")
    count = blocks * len(maps)
    return nn.ModuleDict(
        {str(size): nn.Sequential(*(Block(maps[size], group, count) for _ in range(blocks))) for size in maps}
    )


def cast(x: Tensor, size: int, half: torch.dtype) -> Tensor:
    """Feature maps in the type of a stage. 4x4 pixels stay in float32."""
    return x.to(half if size > 4 else torch.float32, memory_format=torch.channels_last)


class Generator(game.Generator):
    """Latents (N, latent) to images (N, image_channels, resolution, resolution), about in [-1, 1].

    The first feature maps are `basis`, learned maps of 4x4 pixels, times a linear map of the latent. With `classes`, an
    embedding of the label, as long as the latent, joins it. A size has `channel_base` / size channels, but at most
    `channel_max`; `blocks` residual blocks; and `group` channels in a group of the 3x3 convolutions. Under mixed
    precision, only the stage of 4x4 pixels runs in float32. Raises ValueError for settings out of range.
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        latent: int,
        classes: int,
        channel_base: int,
        channel_max: int,
        group: int,
        blocks: int,
    ):
        super().__init__()
        if latent < 1 or classes < 0:
            raise ValueError(f"latent={latent} must be at least 1, classes={classes} at least 0")
        self.latent, self.classes = latent, classes
        maps = widths(resolution, channel_base, channel_max)
        if classes:
            self.embedding = nn.Embedding(classes, latent)
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(classes))
        self.dense = nn.Linear(2 * latent if classes else latent, maps[4], bias=False)
        initialise(self.dense.weight)
        self.basis = nn.Parameter(torch.randn(maps[4], 4, 4))
        self.stages = stages(maps, group, blocks)
        self.up = nn.ModuleDict(
            {str(size): transition(maps[size // 2], maps[size], up=True) for size in maps if size > 4}
        )
        self.output = convolution(maps[resolution], image_channels)

    def map_latent(self, latent: Tensor, seed: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        if not self.classes:
            return latent
        return torch.cat([latent, self.embedding(needed(label, self.classes))], dim=1)

    def synthesis(self, w: Tensor, seed: Tensor | None = None) -> Tensor:
        with own_precision(w.device) as half:
            x = self.basis * self.dense(w.float())[:, :, None, None]
            for name, stage in self.stages.items():
                x = cast(x, int(name), half)
                x = stage(self.up[name](x) if name in self.up else x)
            return self.output(x)


class Discriminator(nn.Module):
    """Images (N, image_channels, resolution, resolution) to logits (N,).

    The last feature maps become one number per channel, their inner product with `basis`, and then the logit. With
    `classes`, the logit is the inner product of a vector of the image and an embedding of its label (Miyato and Koyama
    2018, "cGANs with Projection Discriminator"). The settings are those of the generator. Raises ValueError.
    """

    group_size = 1  # an image's logit ignores the others

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        classes: int,
        channel_base: int,
        channel_max: int,
        group: int,
        blocks: int,
    ):
        super().__init__()
        if classes < 0:
            raise ValueError(f"classes={classes} must be at least 0")
        self.classes = classes
        maps = widths(resolution, channel_base, channel_max)
        self.input = convolution(image_channels, maps[resolution])
        falling = dict(sorted(maps.items(), reverse=True))
        self.stages = stages(falling, group, blocks)
        self.down = nn.ModuleDict(
            {str(size): transition(maps[size], maps[size // 2], up=False) for size in falling if size > 4}
        )
        self.basis = nn.Parameter(torch.empty(maps[4], 4, 4))
        initialise(self.basis)
        self.dense = nn.Linear(maps[4], maps[4] if classes else 1, bias=False)
        initialise(self.dense.weight)
        if classes:
            self.embedding = nn.Embedding(classes, maps[4])
            nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(classes * maps[4]))

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        with own_precision(images.device) as half:
            x = self.input(images.to(half, memory_format=torch.channels_last))
            for name, stage in self.stages.items():
                x = stage(cast(x, int(name), half))
                if name in self.down:
                    x = self.down[name](x)
            y = self.dense((x * self.basis).sum(dim=(2, 3)))
            if not self.classes:
                return y[:, 0]
            return (y * self.embedding(needed(label, self.classes))).sum(dim=1)
