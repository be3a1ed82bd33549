"""Adversarial losses. Each reads like its equation: raw logits in, real before fake, a scalar out, both sides together.

D(x) below is the logit of the discriminator (larger means more real), sigma the sigmoid. A logit may be one number an
image, (N,), or a map of patches, (N, 1, H, W): everything is averaged.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import softplus


class AdversarialLoss(NamedTuple):
    """Both sides of a game, as functions of logits.

    `boundary` is the logit at which D is undecided, from which its accuracy is counted; None where logits have no such
    point. A `relativistic` loss needs the logits of real images in the generator's turn as well.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]  # (real, fake) -> scalar
    generator: Callable[[Tensor, Tensor | None], Tensor]  # (fake, real or None) -> scalar
    relativistic: bool = False
    boundary: float | None = 0.0


def _cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigma(D(real)) - log(1 - sigma(D(fake)))."""
    return softplus(-real).mean() + softplus(fake).mean()


def minimax() -> AdversarialLoss:
    """The original game: G minimises log(1 - sigma(D(G(z)))) (Goodfellow et al. 2014, equation 1)."""
    return AdversarialLoss(_cross_entropy, lambda fake, real: -softplus(fake).mean())


def nonsaturating() -> AdversarialLoss:
    """G maximises log sigma(D(G(z))) instead, whose gradient survives a strong D (Goodfellow et al. 2014, section
    3)."""
    return AdversarialLoss(_cross_entropy, lambda fake, real: softplus(-fake).mean())


def least_squares(a: float, b: float, c: float) -> AdversarialLoss:
    """D pulls fakes to `a` and reals to `b`, G pulls fakes to `c` (Mao et al. 2017, equation 2)."""
    return AdversarialLoss(
        lambda real, fake: 0.5 * (real - b).square().mean() + 0.5 * (fake - a).square().mean(),
        lambda fake, real: 0.5 * (fake - c).square().mean(),
        boundary=(a + b) / 2,
    )
