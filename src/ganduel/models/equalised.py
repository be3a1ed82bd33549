"""What StyleGAN2's two networks share: weights at unit scale, feature maps a resolution, the mapping, the precision.

Weights are stored at unit scale and multiplied at run time by what keeps the signal at unit scale, so that Adam moves
all layers alike (equalised learning rate; Karras et al. 2018, "Progressive Growing of GANs", section 4.1). Gains, of
leaky ReLU too, are multiplied into whatever tensor is small.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ganduel.models.convolution import activate
from ganduel.models.layers import normalise

ROOT = math.sqrt(2)  # leaky ReLU halves the mean square; this puts it back


@contextmanager
def own_precision(device: torch.device) -> Iterator[torch.dtype]:
    """Switch autocast off, for networks that cast by themselves; gives the type that it would have used, float32 where
    it was not on."""
    kind = device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    with torch.autocast(kind, enabled=False):
        yield half


def widths(resolution: int, base: int, most: int) -> dict[int, int]:
    """Feature maps of every size from 4 to the image's: as many as their size leaves of `base`, `most` at most."""
    if resolution < 16 or resolution > 1024 or resolution & (resolution - 1):
        raise ValueError(f"resolution={resolution} must be a power of two from 16 to 1024")
    if base < resolution or most < 1:
        raise ValueError(f"channel_base={base} must be at least the resolution {resolution}, channel_max={most} 1")
    return {2**i: min(base >> i, most) for i in range(2, resolution.bit_length())}


def runs_in_half(size: int, resolution: int, resolutions: int) -> bool:
    """Whether feature maps of a size belong to the largest so many; the smallest ones never do."""
    return size > max(4, resolution >> resolutions)


class Dense(nn.Module):
    """(N, inputs) to (N, outputs), times `gain`; trained at `rate` times the learning rate."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.weight_gain, self.bias_gain = gain * rate / math.sqrt(inputs), gain * rate

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias * self.bias_gain, x * self.weight_gain, self.weight.T)


class Mapping(nn.Module):
    """Latents (N, latent), labels (N,) or both to w (N, width); labels have an embedding of their own."""

    w_avg: Tensor  # the generator's moving average of w

    def __init__(self, latent: int, classes: int, width: int, layers: int, rate: float):
        super().__init__()
        if layers < 1 or not 0 < rate <= 1:
            raise ValueError(f"layers={layers} must be at least 1 and rate={rate} above 0, and at most 1")
        self.classes, self.layers = classes, layers
        if classes:
            self.embed = Dense(classes, width)
        sizes = [latent + (width if classes else 0), *[width] * layers]
        for i in range(layers):
            self.add_module(f"fc{i}", Dense(sizes[i], sizes[i + 1], rate=rate, gain=ROOT))

    def forward(self, latent: Tensor | None, label: Tensor | None) -> Tensor:
        parts = [] if latent is None else [normalise(latent)]
        if self.classes:
            if label is None:
                raise ValueError(f"a network of {self.classes} classes needs the images' labels")
            parts.append(normalise(self.embed(one_hot(label, self.classes).float())))
        x = torch.cat(parts, dim=1)
        for i in range(self.layers):
            x = activate(self.get_submodule(f"fc{i}")(x), clamp=None)
        return x
