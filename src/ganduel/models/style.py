"""How a generator takes its latent as a style: the mapping network, and convolutions that the style modulates.

A styled convolution is a module `(x, style) -> y`, with x (N, C, H, W), resized first, and the style (N, width).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import instance_norm

Convolution = nn.Conv2d | nn.ConvTranspose2d


class Mapping(nn.Module):
    """Latent z (N, width) to style w (N, width): z at unit mean square, then dense layers with leaky ReLU (Karras et
    al. 2019, "A Style-Based Generator Architecture", section 2)."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.layers = nn.Sequential()
        for _ in range(layers):
            dense = nn.Linear(width, width)
            nn.init.kaiming_normal_(dense.weight, 0.2)  # keeps the size of w near 1, however many layers
            nn.init.zeros_(dense.bias)
            self.layers.extend([dense, nn.LeakyReLU(0.2)])

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt())


class Adaptive(nn.Module):
    """A convolution whose feature maps get the mean and the deviation that the style says: adaptive instance
    normalisation (Huang and Belongie 2017, equation 8)."""

    def __init__(self, resize: nn.Module, convolution: Convolution, width: int):
        super().__init__()
        self.resize, self.convolution = resize, convolution
        self.style = nn.Linear(width, 2 * convolution.out_channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        return instance_norm(self.convolution(self.resize(x))) * (1 + scale) + shift


class Demodulated(nn.Module):
    """A convolution whose weights the style scales an input channel at a time, and which are then normalised so that
    every output keeps unit variance (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN",
    equations 1 and 3).

    The same as weights of its own for every image, but written as: scale the input, convolve with shared weights,
    scale the output.
    """

    def __init__(self, resize: nn.Module, convolution: Convolution, width: int):
        super().__init__()
        self.resize, self.convolution = resize, convolution
        self.style = nn.Linear(width, convolution.in_channels)
        self.bias = nn.Parameter(torch.zeros(convolution.out_channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale = 1 + self.style(style)
        squares = self.convolution.weight.square().sum(dim=(2, 3))  # (out, in)
        if isinstance(self.convolution, nn.ConvTranspose2d):  # (in, out); an output meets one weight in stride^2
            squares = squares.T / self.convolution.stride[0] ** 2
        demodulation = (scale.square() @ squares.T + 1e-8).rsqrt()
        y = self.convolution(self.resize(x * scale[:, :, None, None])) * demodulation[:, :, None, None]
        return y + self.bias[:, None, None]
