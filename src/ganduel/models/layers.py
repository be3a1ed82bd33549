"""Layers that the families share: normalisation, self-attention, the last layer of a discriminator, initialisation."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

Norm = Literal["batch", "layer", "instance", "none"]
Output = Literal["linear", "sigmoid"]


def norm2d(kind: Norm, channels: int, *, running: bool) -> nn.Module:
    """A normalisation of (N, channels, H, W) with a gain and a bias a channel.

    "layer" is over (C, H, W), as in "Improved Training of Wasserstein GANs". `running` keeps BatchNorm's running
    statistics for evaluation. Discriminators do without: they meet real and fake batches in turn, and the mixed
    statistics would describe neither.
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
    """A normalisation of (N, channels)."""
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
    """What a discriminator ends with: nothing, as losses of logits expect it, or the sigmoid as a layer in front of the
    loss."""
    return nn.Sigmoid() if kind == "sigmoid" else nn.Identity()


def normalise(x: Tensor) -> Tensor:
    """Every vector of (N, C) at unit mean square, as mapping networks take their latents."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class SelfAttention(nn.Module):
    """Every position looks at all others: (N, C, H, W) to the same (Zhang et al. 2018, "Self-Attention Generative
    Adversarial Networks", equations 1 to 3).

    `gamma` starts at 0, so it starts as the identity. In plain matrix products: PyTorch's fused attention cannot be
    differentiated twice, which gradient penalties need.
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
    """A weight divided by its largest singular value, as a matrix with a row for each index of dimension `rows`; one
    power iteration a forward pass in training (Miyato et al. 2018, algorithm 1). So micro batches make more of them in
    a step, and come a little nearer to the singular value than the whole batch.

    Unlike PyTorch's, it needs only the direction of its vector, which thus may be averaged with the weights (EMA); and
    without matrix products it stays in float32 under mixed precision.
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
            normalize(u.detach(), dim=0, out=self.u)  # penalties' vjp lets buffers be written to like this alone
        return weight / u.norm()


def normalise_spectrally(network: nn.Module) -> None:
    """Give every convolution and dense layer a spectral norm.

    To be called once the weights are initialised, for afterwards they are computed from others.
    """
    for layer in list(network.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            rows = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # the outputs
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight.detach(), rows))


def initialise_normal(module: nn.Module, std: float) -> None:
    """DCGAN's initialisation: weights N(0, std), gains N(1, std), biases 0."""
    for layer in module.modules():
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if isinstance(weight, nn.Parameter):
            nn.init.normal_(weight, 1.0 if weight.ndim == 1 else 0.0, std)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
