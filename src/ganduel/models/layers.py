"""Layers that the families share."""

from typing import Literal

from torch import nn

Norm = Literal["batch", "layer", "instance", "none"]


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


def initialise_normal(module: nn.Module, std: float) -> None:
    """DCGAN's initialisation: weights N(0, std), gains N(1, std), biases 0."""
    for layer in module.modules():
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if isinstance(weight, nn.Parameter):
            nn.init.normal_(weight, 1.0 if weight.ndim == 1 else 0.0, std)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
