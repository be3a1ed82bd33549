"""Layers that several models share: normalisation, self-attention, the end of a discriminator, initialisation."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

Norm = Literal["batch", "layer", "instance", "none"]
Output = Literal["linear", "sigmoid"]


def norm2d(kind: Norm, channels: int, *, running: bool) -> nn.Module:
    """A normalisation of (N, channels, H, W), with a gain and a bias per channel; "none" is the identity.

    "layer" normalises over (C, H, W), as in "Improved Training of Wasserstein GANs". With `running`, BatchNorm keeps
    running statistics for evaluation. Discriminators keep none: real and fake batches alternate, and mixed statistics
    would describe neither.
    """
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels, track_running_stats=running)
        case "layer":
            return nn.GroupNorm(1, channels)
        case "instance":
            return nn.InstanceNorm2d(channels, affine=True)
        case "none":
            return nn.Identity()


def norm1d(kind: Norm, channels: int, *, running: bool) -> nn.Module:
    """A normalisation of (N, channels). Raises ValueError for "instance", which needs images."""
    match kind:
        case "batch":
            return nn.BatchNorm1d(channels, track_running_stats=running)
        case "layer":
            return nn.LayerNorm(channels)
        case "instance":
            raise ValueError('norm="instance" needs images; a multilayer perceptron takes batch, layer or none')
        case "none":
            return nn.Identity()


def output_layer(kind: Output) -> nn.Module:
    """The last layer of a discriminator: the identity, for losses that expect logits, or a sigmoid."""
    return nn.Sigmoid() if kind == "sigmoid" else nn.Identity()


def normalise_vectors(x: Tensor) -> Tensor:
    """Scale every vector of (N, C) to mean square 1, as mapping networks do with their latents."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class SelfAttention(nn.Module):
    """Self-attention over all positions, (N, C, H, W) to the same shape (Zhang et al. 2018, "Self-Attention Generative
    Adversarial Networks", equations 1 to 3).

    `gamma` starts at 0, so the layer starts as the identity. It uses plain matrix products, because gradient penalties
    need second derivatives and PyTorch's fused attention has none.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = max(1, channels // 8)
        self.query, self.key, self.value = (nn.Conv2d(channels, inner, 1, bias=False) for _ in range(3))
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))  # (N, C / 8, H * W)
        weights = (query.mT @ key).softmax(dim=2)
        return x + self.gamma * self.out((value @ weights.mT).unflatten(2, x.shape[2:]))


class SpectralNorm(nn.Module):
    """Divide a weight by an estimate of its largest singular value (Miyato et al. 2018, algorithm 1).

    The weight counts as a matrix with one row for each index of dimension `rows`. In training, every forward pass does
    one power iteration. With micro batches, a step has more forward passes, so the estimate is a little more precise.

    PyTorch's version differs in two ways. Here only the direction of the vector u matters, so EMA may average u with
    the weights. And there are no matrix products, so everything stays in float32 under mixed precision.
    """

    u: Tensor

    def __init__(self, weight: Tensor, rows: int):
        super().__init__()
        self.rows = rows
        self.register_buffer("u", torch.randn(weight.shape[rows]))
        for _ in range(15):
            self(weight)

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.transpose(0, self.rows).flatten(1)
        v = normalize((matrix.detach() * self.u[:, None]).sum(dim=0), dim=0)
        u = (matrix * v).sum(dim=1)
        if self.training:
            normalize(u.detach(), dim=0, out=self.u)  # inside the vjp of penalties, only this can write to a buffer
        return weight * u.norm().reciprocal()  # a product: its backward pass is half as long as a quotient's


def normalise_spectrally(network: nn.Module) -> None:
    """Give every convolution and dense layer of a network a spectral norm.

    Initialise the weights first: afterwards they are computed from other parameters.
    """
    for layer in list(network.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            rows = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # the output channels
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight.detach(), rows))


def needed(label: Tensor | None, classes: int) -> Tensor:
    """Return the labels (N,) of a network with classes. Raises ValueError if there are none."""
    if label is None:
        raise ValueError(f"a network of {classes} classes needs the images' labels")
    return label


def initialise_normal(module: nn.Module, std: float) -> None:
    """DCGAN's initialisation: weights N(0, std), gains N(1, std), biases 0. `std` is the standard deviation."""
    for layer in module.modules():
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if isinstance(weight, nn.Parameter):
            nn.init.normal_(weight, 1.0 if weight.ndim == 1 else 0.0, std)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
