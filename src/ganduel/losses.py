"""Adversarial losses. Each reads like its equation: raw logits in, real before fake, a scalar out, both sides together.

D(x) below is the logit of the discriminator (larger means more real), sigma the sigmoid. A logit may be one number an
image, (N,), or a map of patches, (N, 1, H, W): everything is averaged.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import relu, softplus


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


def hinge() -> AdversarialLoss:
    """D keeps a margin of 1 on both sides (Lim and Ye 2017)."""
    return AdversarialLoss(
        lambda real, fake: relu(1 - real).mean() + relu(1 + fake).mean(),
        lambda fake, real: -fake.mean(),
    )


def wasserstein() -> AdversarialLoss:
    """The critic's difference of means, a distance while the critic is 1-Lipschitz (Arjovsky et al. 2017, equation 2).

    Logits have no point of indecision: a constant added to them changes nothing.
    """
    return AdversarialLoss(
        lambda real, fake: fake.mean() - real.mean(),
        lambda fake, real: -fake.mean(),
        boundary=None,
    )


def relativistic() -> AdversarialLoss:
    """D tells the real image of a pair from the fake one (Jolicoeur-Martineau 2018, RpGAN).

    Only differences of logits count, so they have no point of indecision.
    """

    def generator(fake: Tensor, real: Tensor | None) -> Tensor:
        assert real is not None
        return softplus(real - fake).mean()

    return AdversarialLoss(
        lambda real, fake: softplus(fake - real).mean(),
        generator,
        relativistic=True,
        boundary=None,
    )
