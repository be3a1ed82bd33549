"""Networks for points in the plane: multilayer perceptrons, D with maxout units (Goodfellow et al. 2013). PacGAN (Lin
et al. 2018) uses them to count modes.

A point is an image (2, 1, 1) of one pixel, whose two channels are x and y.
"""

from torch import Tensor, nn

from ganduel import game
from ganduel.models.layers import Norm, norm1d


class Generator(game.Generator):
    """Latents (N, latent) to points (N, 2, 1, 1). `widths` are the sizes of the hidden layers."""

    def __init__(self, *, latent: int, widths: list[int], norm: Norm):
        super().__init__()
        self.latent = latent
        layers: list[nn.Module] = []
        for before, after in zip([latent, *widths], widths, strict=False):
            layers += [nn.Linear(before, after), norm1d(norm, after, running=True), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear([latent, *widths][-1], 2), nn.Unflatten(1, (2, 1, 1)))

    def synthesis(self, w: Tensor, seed: Tensor | None = None) -> Tensor:
        return self.layers(w)


class Discriminator(nn.Module):
    """Points (N, image_channels, 1, 1) to logits (N,). Each hidden unit is the largest of `pieces` linear functions."""

    output = "linear"
    group_size = 1  # it judges every point, or pack of points, separately

    def __init__(self, *, image_channels: int, widths: list[int], pieces: int):
        super().__init__()
        sizes = [image_channels, *widths]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip(sizes, widths, strict=False):
            layers += [nn.Linear(before, pieces * after), nn.Unflatten(1, (pieces, after)), Largest()]
        self.maxout = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, points: Tensor) -> Tensor:
        return self.maxout(points).flatten()


class Largest(nn.Module):
    """The largest piece of each unit: (N, pieces, width) to (N, width). In this order, it takes half the time."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(1)
