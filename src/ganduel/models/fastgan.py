"""The generator of FastGAN (Liu et al. 2021, "Towards Faster and Stabilized GAN Training for High-fidelity Few-shot
Image Synthesis") as Projected GAN uses it (Sauer et al. 2021), for 16, 32, ... 1024 pixels.

A transposed convolution makes 4x4 feature maps from the latent. Each block doubles their size. Skip-layer excitation
lets small feature maps decide which channels of much larger ones matter.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ganduel import game, randomness
from ganduel.models.convolution import Conv2d, convolve_enlarged
from ganduel.models.layers import initialise_normal, needed, normalise_spectrally, normalise_vectors

SHARES = {
    4: 16,
    8: 8,
    16: 4,
    32: 2,
    64: 2,
    128: 1,
    256: 0.5,
    512: 0.25,
    1024: 0.125,
}  # of `channels`, by size in pixels


def widths(resolution: int, channels: int) -> dict[int, int]:
    """Numbers of feature maps at 4, 8, ..., `resolution` pixels. `channels` is the number at 128 pixels.

    Raises ValueError for a resolution that is not a power of two from 16 to 1024, or if no feature map would be left.
    """
    sizes = [size for size in SHARES if size >= 16]
    if resolution not in sizes:
        fits = min((size for size in sizes if size > resolution), default=sizes[-1])
        raise ValueError(
            f"resolution={resolution} is not allowed; it takes {', '.join(map(str, sizes))}: set data.resolution={fits}"
        )
    found = {size: int(channels * share) for size, share in SHARES.items() if size <= resolution}
    if min(found.values()) < 1:
        raise ValueError(f"channels={channels} leaves no feature map at {resolution} pixels; set a larger number")
    return found


class FirstMaps(nn.ConvTranspose2d):
    """A transposed convolution that makes 4x4 feature maps (N, out, 4, 4) of vectors (N, in, 1, 1).

    Each output is a sum over the vector alone, so one matrix product does it. PyTorch's transposed convolution takes
    several times as long on CPUs.
    """

    def __init__(self, before: int, after: int):
        super().__init__(before, after, 4, bias=False)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return (input.flatten(1) @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])


class Noise(nn.Module):
    """Add noise to feature maps (N, C, H, W), the same to all channels. Its strength is learned and starts at 0.

    The noise is hashed from the seeds (N,). Without seeds there is none.
    """

    def __init__(self, stream: str):
        super().__init__()
        self.stream = stream
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, seed: Tensor | None) -> Tensor:
        if seed is None:
            return x
        noise = randomness.normal(seed, (1, *x.shape[2:]), self.stream)
        return x + (self.strength * noise).to(x.dtype)


class Layer(nn.Module):
    """A 3x3 convolution, noise from the random stream `stream` unless it is None, batch normalisation and a gated
    linear unit: (N, before, H, W) to (N, after, H, W). With `up`, every pixel is first repeated, so H and W double.
    """

    def __init__(self, before: int, after: int, stream: str | None, *, up: bool):
        super().__init__()
        self.up = up
        self.convolution = Conv2d(before, 2 * after, 3, padding=1, bias=False)
        self.noise = Noise(stream) if stream else None
        self.rest = nn.Sequential(nn.BatchNorm2d(2 * after), nn.GLU(dim=1))

    def forward(self, x: Tensor, seed: Tensor | None) -> Tensor:
        x = convolve_enlarged(x, self.convolution.weight) if self.up else self.convolution(x)
        return self.rest(x if self.noise is None else self.noise(x, seed))


class Block(nn.Module):
    """Twice the size, by one layer without noise (`lite`), or by two layers with noise."""

    def __init__(self, before: int, after: int, size: int, *, lite: bool):
        super().__init__()
        streams = [None] if lite else [f"noise {size} 0", f"noise {size} 1"]
        self.layers = nn.ModuleList(
            Layer(after if i else before, after, stream, up=i == 0) for i, stream in enumerate(streams)
        )

    def forward(self, x: Tensor, seed: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, seed)
        return x


def excitations(before: int, after: int) -> nn.Sequential:
    """Skip-layer excitation: small feature maps (N, before, H, W) to one factor in (0, 1) for each of `after` channels,
    (N, after, 1, 1)."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(4),
        nn.Conv2d(before, after, 4, bias=False),
        nn.SiLU(),
        nn.Conv2d(after, after, 1, bias=False),
        nn.Sigmoid(),
    )


class Generator(game.Generator):
    """Latents (N, latent) to images (N, image_channels, resolution, resolution), about in [-1, 1].

    With `classes`, an embedding of the label joins the latent. Skip-layer excitation leads from every size to the size
    `excitation` times as large, where there is one. Raises ValueError.
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        latent: int,
        classes: int,
        channels: int,
        lite: bool,
        excitation: int,
        spectral_norm: bool,
    ):
        super().__init__()
        maps = widths(resolution, channels)
        if latent < 1 or classes < 0:
            raise ValueError(f"latent={latent} must be at least 1, classes={classes} at least 0")
        if excitation not in (0, 2, 4, 8, 16, 32):
            raise ValueError(f"excitation={excitation} is not allowed; it takes 0 (none), 2, 4, 8, 16, 32")
        self.latent, self.classes, self.excitation = latent, classes, excitation
        inputs = 2 * latent if classes else latent
        self.input = nn.Sequential(FirstMaps(inputs, 2 * maps[4]), nn.BatchNorm2d(2 * maps[4]), nn.GLU(dim=1))
        self.blocks = nn.ModuleDict(
            {str(size): Block(maps[before], maps[size], size, lite=lite) for before, size in pairwise(maps)}
        )
        pairs = [(size // excitation, size) for size in maps if excitation and size // excitation in maps]
        self.excitations = nn.ModuleDict({str(large): excitations(maps[small], maps[large]) for small, large in pairs})
        self.output = nn.Conv2d(maps[resolution], image_channels, 3, padding=1, bias=False)
        initialise_normal(self, 0.02)
        if spectral_norm:
            normalise_spectrally(self)
        if classes:
            self.embedding = nn.Embedding(classes, latent)

    def map_latent(self, latent: Tensor, seed: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """The latent; with classes, the latent and the embedding of the label, (N, 2 latent)."""
        if not self.classes:
            return latent
        return torch.cat([latent, normalise_vectors(self.embedding(needed(label, self.classes)))], dim=1)

    def synthesis(self, w: Tensor, seed: Tensor | None = None) -> Tensor:
        x = self.input(normalise_vectors(w)[:, :, None, None])
        found = {4: x}
        for name, block in self.blocks.items():
            size = int(name)
            x = block(x, seed)
            if name in self.excitations:
                x = x * self.excitations[name](found[size // self.excitation])
            found[size] = x
        return self.output(x)
