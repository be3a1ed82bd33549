"""Penalties: functions of one duel; and projections, which put a player's parameters back where they may be.

Weight, interval and player are configuration. The trainer runs penalties in float32, outside autocast. Every penalty is
a mean of one value an image, so that neither micro batches nor processes change it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ganduel import randomness
from ganduel.game import Duel


@dataclass
class Regularizer:
    """A penalty, who pays it, how much and how often.

    With `every == 1` it joins the player's main phase; otherwise it gets an optimizer step of its own in every
    `every`-th turn, multiplied by `every` (lazy regularization, Karras et al. 2020, "Analyzing and Improving the Image
    Quality of StyleGAN", appendix B).

    A penalty may come with statistics by name. One that adapts is a module, whose buffers are saved, with a method
    `adapt(means)`: the statistics of an optimizer step over all micro batches and processes, on the device.
    """

    fn: Callable[[Duel], Tensor | tuple[Tensor, dict[str, Tensor]]]
    player: Literal["D", "G"]
    weight: float
    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1")


@dataclass
class Projection:
    """What is done to the parameters of a player after each of its optimizer steps."""

    fn: Callable[[list[Tensor]], None]
    player: Literal["D", "G"]


def r1(duel: Duel) -> Tensor:
    """Mean squared norm of D's gradient at real images: E |grad D(x)|^2 (Mescheder et al. 2018, equation 9).

    The paper's gamma is twice the weight.
    """
    return _squared_gradient(duel, duel.real).mean()


def r2(duel: Duel) -> Tensor:
    """The same at fake images: E |grad D(G(z))|^2 (Mescheder et al. 2018)."""
    return _squared_gradient(duel, duel.fake.detach()).mean()


def gradient_penalty(duel: Duel, target: float, one_sided: bool) -> Tensor:
    """E (|grad D(x)| - target)^2 at random points between real and fake images (Gulrajani et al. 2017, equation 3).

    `one_sided` punishes only gradients above the target.
    """
    share = randomness.uniform(duel.seed, (1, 1, 1), "interpolate")
    excess = _gradient_norm(duel, torch.lerp(duel.real, duel.fake.detach().float(), share)) - target
    return (excess.clamp_min(0) if one_sided else excess).square().mean()


def dragan(duel: Duel, target: float, spread: float) -> Tensor:
    """E (|grad D(x)| - target)^2 at real images under normal noise (Kodali et al. 2017).

    The noise is `spread` times the standard deviation of the image's own pixels. The paper scales it by that of the
    batch, through which the penalty of an image would depend on its neighbours.
    """
    width = spread * duel.real.std(dim=(1, 2, 3), keepdim=True)
    noise = randomness.normal(duel.seed, tuple(duel.real.shape[1:]), "dragan")
    return (_gradient_norm(duel, duel.real + width * noise) - target).square().mean()


def clip(limit: float) -> Callable[[list[Tensor]], None]:
    """Cut every parameter to [-limit, limit], biases and gains included (Arjovsky et al. 2017, algorithm 1)."""
    if limit <= 0:
        raise ValueError(f"limit={limit} must be more than 0")

    def project(parameters: list[Tensor]) -> None:
        torch._foreach_clamp_min_(parameters, -limit)
        torch._foreach_clamp_max_(parameters, limit)

    return project


def _gradient_norm(duel: Duel, images: Tensor) -> Tensor:
    """Norm of the critic's gradient at each image: (N,)."""
    # The root has no derivative at 0; there, the gradient can only be pushed up in every direction or none.
    return _squared_gradient(duel, images).clamp_min(1e-24).sqrt()


def _squared_gradient(duel: Duel, images: Tensor) -> Tensor:
    """Squared norm of the critic's gradient at each image: (N,).

    By `torch.func.vjp`, which unlike `autograd.grad` under `create_graph` does not also compute the gradients of
    the weights only to drop them.
    """
    logits, pull_back = torch.func.vjp(duel.critic, images)[:2]
    (gradient,) = pull_back(torch.ones_like(logits))
    return gradient.square().sum(dim=(1, 2, 3))
