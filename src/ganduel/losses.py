"""Adversarial losses. Each reads like its equation: raw logits in, real before fake, a scalar out, both sides together.

D(x) below is the logit of the discriminator (larger means more real), sigma the sigmoid. A logit may be one number an
image, (N,), or a map of patches, (N, 1, H, W): everything is averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from ganduel import randomness


class AdversarialLoss(NamedTuple):
    """Both sides of a game, as functions of logits.

    The discriminator's side also takes the images' seeds (N,), from which disturbed labels are drawn; None asks for
    undisturbed ones. `boundary` is the logit at which D is undecided, from which its accuracy is counted; None where
    logits have no such point. A `relativistic` loss needs the logits of real images in the generator's turn as well.
    `logits` says that the loss has a sigmoid of its own, so that D should not end in another.
    """

    discriminator: Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (real, fake, seed or None) -> scalar
    generator: Callable[[Tensor, Tensor | None], Tensor]  # (fake, real or None) -> scalar
    relativistic: bool = False
    boundary: float | None = 0.0
    logits: bool = False


@dataclass(frozen=True)
class Labels:
    """What D is taught to answer: `real` and `fake`, disturbed image by image.

    With probability `flip` an image gets the label of the other kind; then normal noise of standard deviation `noise`
    is added. Both are hashed from the images' seeds.
    """

    real: float
    fake: float
    flip: float
    noise: float

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1 or self.noise < 0:
            raise ValueError(f"flip={self.flip} must be 0 to 1, and noise={self.noise} 0 or more")

    def draw(self, logits: Tensor, seed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Labels of real and of fake images whose logits have this shape, which they broadcast to."""
        return (
            self._disturb(self.real, self.fake, logits, seed, "real"),
            self._disturb(self.fake, self.real, logits, seed, "fake"),
        )

    def _disturb(self, label: float, other: float, logits: Tensor, seed: Tensor | None, kind: str) -> Tensor:
        shape = (1,) * (logits.ndim - 1)
        if seed is None or not (self.flip or self.noise):
            return logits.new_full(shape, label)
        flipped = randomness.uniform(seed, shape, f"flip of {kind} labels") < self.flip
        noise = self.noise * randomness.normal(seed, shape, f"noise on {kind} labels")
        return torch.where(flipped, other, label) + noise


def _cross_entropy(smooth_real: float, smooth_fake: float, flip: float, noise: float) -> Callable[..., Tensor]:
    """D's side: -y log sigma(D(x)) - (1 - y) log(1 - sigma(D(x))), where y is 1 for real and 0 for fake images.

    Smoothing moves the labels inwards: y = 1 - smooth_real alone is one-sided (Salimans et al. 2016, section 3.4). A
    label is a probability, so that noise cannot take it out of [0, 1].
    """
    if min(smooth_real, smooth_fake) < 0 or smooth_real + smooth_fake >= 1:
        raise ValueError(
            f"smooth_real={smooth_real} and smooth_fake={smooth_fake} must be 0 or more and together less than 1"
        )
    labels = Labels(1 - smooth_real, smooth_fake, flip, noise)

    def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
        y = label.clamp(0, 1)
        return (y * softplus(-logits) + (1 - y) * softplus(logits)).mean()

    def discriminator(real: Tensor, fake: Tensor, seed: Tensor | None) -> Tensor:
        y_real, y_fake = labels.draw(real, seed)
        return cross_entropy(real, y_real) + cross_entropy(fake, y_fake)

    return discriminator


def minimax(smooth_real: float, smooth_fake: float, flip: float, noise: float) -> AdversarialLoss:
    """The original game: G minimises log(1 - sigma(D(G(z)))) (Goodfellow et al. 2014, equation 1)."""
    return AdversarialLoss(
        _cross_entropy(smooth_real, smooth_fake, flip, noise),
        lambda fake, real: -softplus(fake).mean(),
        logits=True,
    )


def nonsaturating(smooth_real: float, smooth_fake: float, flip: float, noise: float) -> AdversarialLoss:
    """G maximises log sigma(D(G(z))) instead, whose gradient survives a strong D (Goodfellow et al. 2014, section
    3)."""
    return AdversarialLoss(
        _cross_entropy(smooth_real, smooth_fake, flip, noise),
        lambda fake, real: softplus(-fake).mean(),
        logits=True,
    )


def least_squares(
    a: float, b: float, c: float, discriminator: float, generator: float, flip: float, noise: float
) -> AdversarialLoss:
    """D pulls fakes to `a` and reals to `b`, G pulls fakes to `c` (Mao et al. 2017, equation 2).

    A `b` of 0.9 is one-sided label smoothing. `discriminator` and `generator` are factors of the two sides, 0.5 in the
    paper.
    """
    if min(discriminator, generator) <= 0:
        raise ValueError(f"discriminator={discriminator} and generator={generator} must be more than 0")
    labels = Labels(b, a, flip, noise)

    def loss(real: Tensor, fake: Tensor, seed: Tensor | None) -> Tensor:
        y_real, y_fake = labels.draw(real, seed)
        return discriminator * ((real - y_real).square().mean() + (fake - y_fake).square().mean())

    return AdversarialLoss(
        loss,
        lambda fake, real: generator * (fake - c).square().mean(),
        boundary=(a + b) / 2,
    )


def hinge() -> AdversarialLoss:
    """D keeps a margin of 1 on both sides (Lim and Ye 2017)."""
    return AdversarialLoss(
        lambda real, fake, seed: relu(1 - real).mean() + relu(1 + fake).mean(),
        lambda fake, real: -fake.mean(),
    )


def wasserstein() -> AdversarialLoss:
    """The critic's difference of means, a distance while the critic is 1-Lipschitz (Arjovsky et al. 2017, equation 2).

    Logits have no point of indecision: a constant added to them changes nothing.
    """
    return AdversarialLoss(
        lambda real, fake, seed: fake.mean() - real.mean(),
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
        lambda real, fake, seed: softplus(fake - real).mean(),
        generator,
        relativistic=True,
        boundary=None,
        logits=True,
    )
