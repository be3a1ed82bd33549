"""How a generator takes its latent as a style: the mapping network, and convolutions that the style modulates.

A styled convolution is a module `(x, style) -> y`, with x (N, C, H, W), resized first, and the style (N, width).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import instance_norm, linear

from ganduel.models.convolution import modulated
from ganduel.models.layers import normalise

Convolution = nn.Conv2d | nn.ConvTranspose2d


class SlowLinear(nn.Linear):
    """A dense layer whose parameters are stored 1 / `rate` times as large, so that Adam, whose steps have one size,
    moves them `rate` times as far (Karras et al. 2019, "A Style-Based Generator Architecture", appendix C)."""

    def __init__(self, inputs: int, outputs: int, rate: float):
        super().__init__(inputs, outputs)
        self.rate = rate
        nn.init.kaiming_normal_(self.weight, 0.2)
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.weight.div_(rate)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight * self.rate, self.bias * self.rate)


class Mapping(nn.Module):
    """Latent z (N, width) to style w (N, width): z at unit mean square, then dense layers with leaky ReLU between
    (Karras et al. 2019, section 2).

    It starts with mean 0 and variance 1 over all w: what all images have in common, a generator learns first, and with
    much of it DCGAN draws a single picture (measured on digits; so it does if `rate` lets the mean return).
    """

    def __init__(self, width: int, layers: int, rate: float):
        super().__init__()
        last = SlowLinear(width, width, rate)
        hidden = (module for _ in range(layers - 1) for module in (SlowLinear(width, width, rate), nn.LeakyReLU(0.2)))
        self.layers = nn.Sequential(*hidden, last)
        with torch.no_grad():
            w = self(torch.randn(4096, width))
            last.bias.sub_(w.mean(dim=0) / rate)
            for parameter in last.parameters():
                parameter.div_(w.std(dim=0).mean())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(normalise(z))


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
    """Any convolution, modulated by the style as StyleGAN2's are."""

    def __init__(self, resize: nn.Module, convolution: Convolution, width: int):
        super().__init__()
        self.resize, self.convolution = resize, convolution
        self.style = nn.Linear(width, convolution.in_channels)
        self.bias = nn.Parameter(torch.zeros(convolution.out_channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        squares = self.convolution.weight.square().sum(dim=(2, 3))  # (out, in)
        if isinstance(self.convolution, nn.ConvTranspose2d):  # (in, out); an output meets one weight in stride^2
            squares = squares.T / self.convolution.stride[0] ** 2
        return modulated(x, lambda x: self.convolution(self.resize(x)), squares, 1 + self.style(style), self.bias)
