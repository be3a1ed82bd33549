"""Adversarial losses, written like their equations: from raw logits, real before fake, to a scalar.

D(x) is the discriminator's logit (larger means more real), sigma the sigmoid. Logits have shape (N,), or (N, 1, H, W)
if D scores patches. If D judges packs of images, N is the number of packs. Every loss is a mean over all logits. The
functions raise ValueError for numbers out of range.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from ganduel import randomness


class AdversarialLoss(NamedTuple):
    """The losses of D and of G, as functions of logits.

    D's loss also takes the images' seeds (N,). Noisy and flipped labels are drawn from these; None gives clean labels.
    `boundary` is the logit at which D is undecided. D's accuracy is counted from it; None means that the loss has no
    such logit. If `relativistic`, G's loss also needs the logits of real images. If `logits`, the loss contains a
    sigmoid, so D should not end in one.
    """

    discriminator: Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (real, fake, seed or None) -> scalar
    generator: Callable[[Tensor, Tensor | None], Tensor]  # (fake, real or None) -> scalar
    relativistic: bool = False
    boundary: float | None = 0.0
    logits: bool = False


@dataclass(frozen=True)
class Labels:
    """D's labels: `real` and `fake`, with optional random changes per image.

    With probability `flip` an image gets the label of the other kind. Then normal noise with standard deviation `noise`
    is added. Both are hashed from the images' seeds. Raises ValueError for a `flip` outside [0, 1] or a negative
    `noise`.
    """

    real: float
    fake: float
    flip: float
    noise: float

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1 or self.noise < 0:
            raise ValueError(f"flip={self.flip} must be 0 to 1, and noise={self.noise} 0 or more")

    def draw(self, logits: Tensor, seed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Labels of real and of fake images. They broadcast to the shape of `logits`."""
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
    """D's loss: -y log sigma(D(x)) - (1 - y) log(1 - sigma(D(x))), with label y = 1 for real and 0 for fake images.

    Label smoothing sets y = 1 - smooth_real and y = smooth_fake. With smooth_fake = 0 it is one-sided (Salimans et al.
    2016, section 3.4). A label is a probability, so noisy labels are clipped to [0, 1].
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
    """G maximises log sigma(D(G(z))). Its gradient does not vanish when D is strong (Goodfellow et al. 2014, section
    3)."""
    return AdversarialLoss(
        _cross_entropy(smooth_real, smooth_fake, flip, noise),
        lambda fake, real: softplus(-fake).mean(),
        logits=True,
    )


def least_squares(
    a: float, b: float, c: float, discriminator: float, generator: float, flip: float, noise: float
) -> AdversarialLoss:
    """D's targets are `a` for fake and `b` for real images; G's target for fake images is `c` (Mao et al. 2017,
    equation 2).

    `b` = 0.9 is one-sided label smoothing. `discriminator` and `generator` are the factors of the two losses, 0.5 in
    the paper.
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
    """The difference of the critic's means: the Wasserstein distance is its largest value over all 1-Lipschitz critics
    (Arjovsky et al. 2017, equation 2).

    There is no `boundary`, because adding a constant to all logits changes nothing.
    """
    return AdversarialLoss(
        lambda real, fake, seed: fake.mean() - real.mean(),
        lambda fake, real: -fake.mean(),
        boundary=None,
    )


def relativistic() -> AdversarialLoss:
    """D says which image of a pair is real and which is fake (Jolicoeur-Martineau 2018, RpGAN).

    There is no `boundary`, because only differences of logits count.
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
