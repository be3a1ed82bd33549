"""The discriminator of StyleGAN2-ADA (see `stylegan2`).

Under the trainer's autocast, the largest resolutions run in half precision. The other resolutions, the minibatch
standard deviation and the logits stay in float32.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ganduel import batches
from ganduel.models.convolution import Resample, activate, convolve
from ganduel.models.stylegan2_layers import ROOT, Dense, Mapping, own_precision, runs_in_half, widths

Architecture = Literal["resnet", "orig"]


class Convolution(nn.Module):
    """A convolution with bias and leaky ReLU, or without both if `linear`. Its output is multiplied by `gain`.

    `down` halves the size.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        down: bool = False,
        linear: bool = False,
        gain: float = 1.0,
        clamp: float | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = None if linear else nn.Parameter(torch.zeros(outputs))
        self.gain = gain if linear else gain * ROOT
        self.clamp = None if clamp is None else clamp * gain
        self.resample: Resample | None = None
        self.stride, self.padding = 1, kernel // 2
        if down and kernel == 1:  # the filter can skip the pixels that the stride would skip
            self.resample = Resample(down=2, padding=(1, 1))
        elif down:
            self.resample = Resample(padding=(2, 2))
            self.stride, self.padding = 2, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.resample is not None:
            x = self.resample(x)
        weight: Tensor = self.weight
        gain = self.gain / math.sqrt(self.weight[0].numel())
        if x.numel() < weight.numel():
            x = x * gain
        else:
            weight = weight * gain
        x = convolve(x, weight.to(x.dtype), stride=self.stride, padding=self.padding)
        if self.bias is None:
            return x
        return activate(x, self.clamp, self.gain * self.bias)


class DiscriminatorBlock(nn.Module):
    """The layers of one resolution: feature maps (N, inputs, H, W) to (N, outputs, H / 2, W / 2).

    With `image_channels`, the block takes the image, and first makes feature maps of it. With the architecture
    "resnet", it has a shortcut.
    """

    def __init__(
        self,
        image_channels: int | None,
        inputs: int,
        outputs: int,
        *,
        architecture: Architecture,
        in_half: bool,
        clamp: float | None,
    ):
        super().__init__()
        self.in_half, self.resnet = in_half, architecture == "resnet"
        self.fromrgb = None if image_channels is None else Convolution(image_channels, inputs, 1, clamp=clamp)
        self.conv0 = Convolution(inputs, inputs, 3, clamp=clamp)
        # The sum of two branches keeps its mean square if each branch has half of it.
        gain = math.sqrt(0.5) if self.resnet else 1.0
        self.conv1 = Convolution(inputs, outputs, 3, down=True, gain=gain, clamp=clamp)
        if self.resnet:
            self.skip = Convolution(inputs, outputs, 1, down=True, linear=True, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        if self.fromrgb is not None:
            x = self.fromrgb(x).contiguous(
                memory_format=torch.channels_last
            )  # the maps of grey images have another memory order
        y = self.conv1(self.conv0(x))
        return y + self.skip(x) if self.resnet else y


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """Append one map to (N, C, H, W): the standard deviation over a group of images, averaged over channels and pixels.

    It shows D how varied a batch is (Karras et al. 2018, "Progressive Growing of GANs", section 3). Image i is in a
    group with images i + N / group, i + 2 N / group, ... If `group` does not divide N, the group size is the largest
    smaller number that does. For a group of one image, the map is about 0.
    """
    group = batches.group(len(x), group)
    y = x.unflatten(0, (group, -1))
    deviation = ((y - y.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)


class Head(nn.Module):
    """The last layers: feature maps (N, inputs, 4, 4) to (N, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, stddev_group: int, clamp: float | None):
        super().__init__()
        self.stddev_group = stddev_group
        self.conv = Convolution(inputs + (stddev_group > 0), inputs, 3, clamp=clamp)
        self.fc = Dense(inputs * 16, inputs, gain=ROOT)
        self.out = Dense(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.stddev_group:
            x = minibatch_deviation(x, self.stddev_group)
        return self.out(activate(self.fc(self.conv(x).flatten(1)), clamp=None))


class Discriminator(nn.Module):
    """Images (N, image_channels, resolution, resolution) to logits (N,). Every resolution has two convolutions.

    The architecture "resnet" has a shortcut around them, "orig" has none. With `classes`, the logit is the inner
    product of the image's features and the mapped label (Miyato and Koyama 2018, "cGANs with Projection
    Discriminator"). The first `freeze` layers, counted from the image, do not change (Mo et al. 2020, "Freeze the
    Discriminator"). Raises ValueError for settings out of range.
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        classes: int,
        architecture: Architecture,
        channel_base: int,
        channel_max: int,
        mapping: int,
        mapping_rate: float,
        stddev_group: int,
        freeze: int,
        half_resolutions: int,
        clamp: float | None,
    ):
        super().__init__()
        maps = widths(resolution, channel_base, channel_max)
        self.sizes = sorted(maps, reverse=True)[:-1]
        self.classes, self.group_size = classes, stddev_group or 1
        for size in self.sizes:
            block = DiscriminatorBlock(
                image_channels if size == resolution else None,
                maps[size],
                maps[size // 2],
                architecture=architecture,
                in_half=runs_in_half(size, resolution, half_resolutions),
                clamp=clamp,
            )
            self.add_module(f"b{size}", block)
        if stddev_group < 0 or freeze < 0:
            raise ValueError(f"stddev_group={stddev_group} and freeze={freeze} must be at least 0")
        if stddev_group == 1:
            raise ValueError("stddev_group=1 compares every image with itself alone; set 2 or more, or 0 for none")
        self.b4 = Head(maps[4], maps[4] if classes else 1, stddev_group=stddev_group, clamp=clamp)
        if classes:
            self.mapping = Mapping(0, classes, maps[4], mapping, mapping_rate)
        for layer in [m for m in self.modules() if isinstance(m, Convolution)][:freeze]:
            layer.requires_grad_(False)

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        with own_precision(images.device) as half:
            x = images
            for size in self.sizes:
                block = self.get_submodule(f"b{size}")
                x = block(x.to(half if block.in_half else torch.float32, memory_format=torch.channels_last))
            y = self.b4(x.float())
            if self.classes:
                y = (y * self.mapping(None, label)).sum(dim=1) / math.sqrt(y.shape[1])
            return y.flatten()
