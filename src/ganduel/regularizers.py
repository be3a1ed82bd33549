"""Penalties: functions of one duel. Weight, interval and player are configuration.

The trainer runs them in float32, outside autocast.
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
    """

    fn: Callable[[Duel], Tensor]
    player: Literal["D", "G"]
    weight: float
    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1")


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
    excess = _squared_gradient(duel, torch.lerp(duel.real, duel.fake.detach().float(), share))
    # The root has no derivative at 0; there, the gradient can only be pushed up in every direction or none.
    excess = excess.clamp_min(1e-24).sqrt() - target
    return (excess.clamp_min(0) if one_sided else excess).square().mean()


def _squared_gradient(duel: Duel, images: Tensor) -> Tensor:
    """Squared norm of the critic's gradient at each image: (N,).

    By `torch.func.vjp`, which unlike `autograd.grad` under `create_graph` does not also compute the gradients of
    the weights only to drop them.
    """
    logits, pull_back = torch.func.vjp(duel.critic, images)[:2]
    (gradient,) = pull_back(torch.ones_like(logits))
    return gradient.square().sum(dim=(1, 2, 3))
