"""Styles for DCGAN: a mapping network from z to w, and convolutions that w modulates.

A styled convolution is a module `(x, w) -> y`, with x (N, C, H, W) and w (N, width). It resizes x first. Its dense
layer `style` turns w into the style: one or two numbers per feature map.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import instance_norm, linear

from ganduel.models.convolution import modulated
from ganduel.models.layers import normalise_vectors

Convolution = nn.Conv2d | nn.ConvTranspose2d


class SlowLinear(nn.Linear):
    """A dense layer that learns `rate` times as fast as others (Karras et al. 2019, "A Style-Based Generator
    Architecture", appendix C).

    It stores its parameters divided by `rate`, and multiplies them in the forward pass. The size of Adam's steps does
    not depend on the gradient's size, so a step then changes the layer `rate` times as much.
    """

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
    """The mapping network: latents z (N, width) to w (N, width) (Karras et al. 2019, section 2).

    It scales z to mean square 1. Dense layers follow, with leaky ReLU between them. At the start, w has mean 0 and
    variance 1. A generator first learns what all its inputs share. If w has a large mean, DCGAN draws only one picture
    (measured on digits). The same happens if a large `rate` lets the mean come back.
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
        return self.layers(normalise_vectors(z))


class Adaptive(nn.Module):
    """A convolution with adaptive instance normalisation: the style sets the mean and the standard deviation of each
    feature map (Huang and Belongie 2017, equation 8)."""

    def __init__(self, resize: nn.Module, convolution: Convolution, width: int):
        super().__init__()
        self.resize, self.convolution = resize, convolution
        self.style = nn.Linear(width, 2 * convolution.out_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scale, shift = self.style(w)[:, :, None, None].chunk(2, dim=1)
        return instance_norm(self.convolution(self.resize(x))) * (1 + scale) + shift


class Demodulated(nn.Module):
    """A convolution that the style modulates as in StyleGAN2. It may be transposed."""

    def __init__(self, resize: nn.Module, convolution: Convolution, width: int):
        super().__init__()
        self.resize, self.convolution = resize, convolution
        self.style = nn.Linear(width, convolution.in_channels)
        self.bias = nn.Parameter(torch.zeros(convolution.out_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        squares = self.convolution.weight.square().sum(dim=(2, 3))  # (out, in)
        if isinstance(self.convolution, nn.ConvTranspose2d):  # (in, out); an output gets one weight in stride^2
            squares = squares.T / self.convolution.stride[0] ** 2
        return modulated(
            x, lambda x: self.convolution(self.resize(x)), squares, 1 + self.style(w), self.bias[:, None, None]
        )
