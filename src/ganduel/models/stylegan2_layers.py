"""Parts of both networks of StyleGAN2: equalised layers, the number of feature maps, the mapping and the precision.

Equalised learning rate: weights are stored with variance 1, and the forward pass multiplies them by a constant that
keeps the variance of the signal. So Adam changes all layers at the same relative speed (Karras et al. 2018,
"Progressive Growing of GANs", section 4.1). Gains, also that of leaky ReLU, are multiplied into a small tensor.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ganduel.models.convolution import activate
from ganduel.models.layers import needed, normalise_vectors

ROOT = math.sqrt(2)  # leaky ReLU halves the mean square; this factor restores it


@contextmanager
def own_precision(device: torch.device) -> Iterator[torch.dtype]:
    """Switch autocast off inside the block, for networks that cast tensors themselves.

    Yields the type that autocast would have used; float32 if autocast was off.
    """
    kind = device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    with torch.autocast(kind, enabled=False):
        yield half


def widths(resolution: int, base: int, most: int) -> dict[int, int]:
    """The number of feature maps for every size from 4 to `resolution`: `base` / size, but at most `most`.

    Raises ValueError if `resolution` is not a power of two from 16 to 1024, or if `base` or `most` is too small.
    """
    if resolution < 16 or resolution > 1024 or resolution & (resolution - 1):
        raise ValueError(f"resolution={resolution} must be a power of two from 16 to 1024")
    if base < resolution or most < 1:
        raise ValueError(f"channel_base={base} must be at least the resolution {resolution}, channel_max={most} 1")
    return {2**i: min(base >> i, most) for i in range(2, resolution.bit_length())}


def runs_in_half(size: int, resolution: int, resolutions: int) -> bool:
    """Whether a size is one of the largest `resolutions` sizes, which run in half precision. Size 4 never is."""
    return size > max(4, resolution >> resolutions)


class Dense(nn.Module):
    """A dense layer (N, inputs) -> (N, outputs), multiplied by `gain`. It learns at `rate` times the learning rate."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.weight_gain, self.bias_gain = gain * rate / math.sqrt(inputs), gain * rate

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias * self.bias_gain, x * self.weight_gain, self.weight.T)


class Mapping(nn.Module):
    """The mapping network: latents (N, latent), labels (N,) or both to w (N, width)."""

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
        parts = [] if latent is None else [normalise_vectors(latent)]
        if self.classes:
            parts.append(normalise_vectors(self.embed(one_hot(needed(label, self.classes), self.classes).float())))
        x = torch.cat(parts, dim=1)
        for i in range(self.layers):
            x = activate(self.get_submodule(f"fc{i}")(x), clamp=None)
        return x
