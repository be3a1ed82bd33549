"""Penalties, which are functions of one duel, and projections, which move parameters back into an allowed range.

The configuration sets weight, interval and player. The trainer runs penalties in float32, outside autocast. Every
penalty is a mean of one value per image, so neither micro batches nor processes change it.

A penalty with settings is a frozen dataclass, which checks them. A penalty with a state is a module. `of_gradients` is
False in those that contain no gradient, so that training does not differentiate twice.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ganduel import batches, randomness
from ganduel.augment.affine import interpolate, mirrored
from ganduel.game import Duel, Generator


@dataclass
class Regularizer:
    """A penalty with its player, its weight and its interval in turns.

    With `every == 1` the penalty is part of the player's main loss. Otherwise it gets its own optimizer step in every
    `every`-th turn, multiplied by `every` (lazy regularization, Karras et al. 2020, "Analyzing and Improving the Image
    Quality of StyleGAN", appendix B). Raises ValueError for an `every` below 1 and for a negative weight.

    `fn` may also return statistics by name. The logs call them "regularizer/NAME/STATISTIC". An adaptive penalty is a
    module with a method `adapt(means)`, and checkpoints keep its buffers. After each of its optimizer steps, `adapt`
    gets its statistics: means over all duels, micro batches and processes, on the device.
    """

    fn: Callable[[Duel], Tensor | tuple[Tensor, dict[str, Tensor]]]
    player: Literal["D", "G"]
    weight: float | Tensor  # a tensor on the device if a schedule moves it
    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1")
        if not self.weight >= 0:
            raise ValueError(f"weight={self.weight} must be 0 or more")

    @property
    def of_gradients(self) -> bool:
        """Whether the penalty contains a gradient, so that training differentiates twice."""
        return getattr(self.fn, "of_gradients", True)


@dataclass
class Projection:
    """A change of a player's parameters after each of its optimizer steps."""

    fn: Callable[[list[Tensor]], None]
    player: Literal["D", "G"]


def r1(duel: Duel) -> Tensor:
    """Mean squared norm of D's gradient at real images: E |grad D(x)|^2 (Mescheder et al. 2018, equation 9).

    The paper's gamma is twice the weight.
    """
    return squared_gradient(duel, duel.real).mean()


def r2(duel: Duel) -> Tensor:
    """Mean squared norm of D's gradient at fake images: E |grad D(G(z))|^2 (Mescheder et al. 2018).

    The paper's gamma is twice the weight.
    """
    return squared_gradient(duel, duel.fake.detach()).mean()


@dataclass(frozen=True)
class GradientPenalty:
    """E (|grad D(x)| - target)^2 at random points x between real and fake images (Gulrajani et al. 2017, equation 3).

    `one_sided` penalises only norms above the target. Raises ValueError for a negative `target`.
    """

    target: float
    one_sided: bool

    def __post_init__(self) -> None:
        _refuse_negative(target=self.target)

    def __call__(self, duel: Duel) -> Tensor:
        share = randomness.uniform(duel.seed, (1,) * (duel.real.ndim - 1), "interpolate")
        share = torch.cat([share[: len(share) // duel.pack]] * duel.pack)  # one for each pack
        excess = _gradient_norm(duel, torch.lerp(duel.real, duel.fake.detach(), share)) - self.target
        return (excess.clamp_min(0) if self.one_sided else excess).square().mean()


@dataclass(frozen=True)
class DRAGAN:
    """E (|grad D(x)| - target)^2 at real images under normal noise (Kodali et al. 2017).

    The noise is `spread` times the standard deviation of the image's own pixels. The paper uses the standard deviation
    of the batch, but then the penalty at one image would depend on the others. Raises ValueError for a negative
    `target` or `spread`.
    """

    target: float
    spread: float

    def __post_init__(self) -> None:
        _refuse_negative(target=self.target, spread=self.spread)

    def __call__(self, duel: Duel) -> Tensor:
        width = self.spread * duel.real.std(dim=tuple(range(1, duel.real.ndim)), keepdim=True)
        noise = randomness.normal(duel.seed, tuple(duel.real.shape[1:]), "dragan")
        return (_gradient_norm(duel, duel.real + width * noise) - self.target).square().mean()


@dataclass(frozen=True)
class Consistency:
    """E |D(x) - D(T(x))|^2 of real images, and `fake` times as much of generated ones, under random changes T that keep
    what an image shows (Zhao et al. 2020, "Improved Consistency Regularization for GANs": balanced, bCR).

    T is `mirrored_or_shifted`. `fake` = 0 is the consistency of real images alone (Zhang et al. 2020, CR-GAN). In the
    paper, D's loss is of unchanged images, so there is no other augmentation. Raises ValueError for a negative `fake`
    or `shift`.
    """

    fake: float
    mirror: bool
    shift: float
    of_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _refuse_negative(fake=self.fake, shift=self.shift)

    def __call__(self, duel: Duel) -> Tensor:
        total = torch.zeros((), device=duel.real.device)
        pairs = zip((1.0, self.fake), (duel.real, duel.fake.detach()), duel.logits, strict=True)
        for i, (weight, images, logits) in enumerate(pairs):
            changed = mirrored_or_shifted(images, duel.seed + i * randomness.GOLDEN, self.mirror, self.shift)
            total = total + weight * (logits - duel.discriminator(changed)).square().mean()
        return total


def mirrored_or_shifted(images: Tensor, seed: Tensor, mirror: bool, shift: float) -> Tensor:
    """Images (N, C, H, W): half of them mirrored if `mirror`, all moved by whole pixels. `seed` (N,) decides.

    They move up to the share `shift` of the size in either direction. Edges are mirrored.
    """
    height, width = images.shape[2:]
    flip, across, down = randomness.uniform(seed, (3, 1, 1), "consistency").unbind(1)  # each (N, 1, 1)
    x = torch.arange(width, device=images.device) - (shift * width * (2 * across - 1)).round()
    y = torch.arange(height, device=images.device)[:, None] - (shift * height * (2 * down - 1)).round()
    x = torch.where(flip < 0.5, width - 1 - x, x) if mirror else x
    return interpolate(images, *torch.broadcast_tensors(mirrored(x, width - 1), mirrored(y, height - 1)))


class LeCam(nn.Module):
    """E (D(x) - f)^2 + E (D(G(z)) - r)^2, with r and f the moving averages of D's logits of real and of fake images
    (Tseng et al. 2021, "Regularizing Generative Adversarial Networks under Limited Data", equation 4).

    D must not move far from what it said of the other kind, so it cannot become certain about few images. Each step
    keeps a share `decay` of the averages. They start at 0, and are those of all discriminators together. Raises
    ValueError if `decay` is not in [0, 1).
    """

    of_gradients = False
    real: Tensor
    fake: Tensor

    def __init__(self, decay: float):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} must be 0 or more, and below 1")
        self.decay = decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, duel: Duel) -> tuple[Tensor, dict[str, Tensor]]:
        real, fake = duel.logits
        distance = (real - self.fake).square().mean() + (fake - self.real).square().mean()
        return distance, {"real": real.detach().mean(), "fake": fake.detach().mean()}

    def adapt(self, means: dict[str, Tensor]) -> None:
        for name in ("real", "fake"):
            getattr(self, name).lerp_(means[name], 1 - self.decay)


class PathLength(nn.Module):
    """E (|J' y| - a)^2, with J the Jacobian of the image with respect to w, y normal noise, and a the moving average of
    |J' y| (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", equation 4).

    A step in w then changes the image equally, wherever it starts. The penalty is expensive, so it uses only the first
    images of the batch, a `share` rounded up. Each step replaces a share `decay` of the average. Raises ValueError if
    one of the two is not in (0, 1].
    """

    mean: Tensor

    def __init__(self, decay: float, share: float):
        super().__init__()
        if not 0 < decay <= 1 or not 0 < share <= 1:
            raise ValueError(f"decay={decay} and share={share} must be above 0, and at most 1")
        self.decay, self.share = decay, share
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, duel: Duel) -> tuple[Tensor, dict[str, Tensor]]:
        generator = duel.generator
        assert isinstance(generator, Generator)  # `setup` refuses games with other generators
        # Micro batches are strided, so their first images together are the first images of the batch. `batches`
        # refuses sizes at which rounding up would take more.
        part = slice(batches.first(len(duel.source), self.share))
        seed, label = duel.seed[part], None if duel.label is None else duel.label[part]
        with still(generator):
            w = generator.map_latent(duel.source[part], seed, label)
            lengths = path_lengths(lambda w: generator.synthesis(w, seed), w, seed)
        return (lengths - self.mean).square().mean(), {"length": lengths.detach().mean()}

    def adapt(self, means: dict[str, Tensor]) -> None:
        self.mean.lerp_(means["length"], self.decay)


@contextmanager
def still(network: nn.Module) -> Iterator[None]:
    """Freeze the running statistics of batch normalisation, because `torch.func` cannot update them."""
    moving = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in moving:
        layer.track_running_stats = not layer.training
    try:
        yield
    finally:
        for layer in moving:
            layer.track_running_stats = True


def path_lengths(synthesis: Callable[[Tensor], Tensor], w: Tensor, noise: Tensor) -> Tensor:
    """|J' y| per image, (N,). `w` is (N, width), or (N, layers, width) with squares averaged over the layers.

    y is `noise`, in the shape of the images. If `noise` is seeds (N,), y is drawn from them with mean square
    1 / pixels, so that lengths do not grow with the resolution.
    """
    images, pull_back = torch.func.vjp(synthesis, w)[:2]
    if noise.ndim == 1:
        noise = randomness.normal(noise, tuple(images.shape[1:]), "path length") / math.sqrt(images[0, 0].numel())
    (gradient,) = pull_back(noise)
    squares = gradient.square().sum(dim=-1)
    return squares.flatten(1).mean(dim=1).sqrt() if squares.ndim > 1 else squares.sqrt()


def clip(limit: float) -> Callable[[list[Tensor]], None]:
    """Clip every parameter to [-limit, limit], biases and gains too (Arjovsky et al. 2017, algorithm 1).

    Raises ValueError for a limit of 0 or less.
    """
    if limit <= 0:
        raise ValueError(f"limit={limit} must be more than 0")

    def project(parameters: list[Tensor]) -> None:
        torch._foreach_clamp_min_(parameters, -limit)
        torch._foreach_clamp_max_(parameters, limit)

    return project


def _refuse_negative(**settings: float) -> None:
    for name, value in settings.items():
        if not value >= 0:
            raise ValueError(f"{name}={value} must be 0 or more")


def _gradient_norm(duel: Duel, images: Tensor) -> Tensor:
    # The square root has no finite derivative at 0. Below the clamp, the penalty has no gradient.
    return squared_gradient(duel, images).clamp_min(1e-24).sqrt()


def squared_gradient(duel: Duel, images: Tensor) -> Tensor:
    """Squared norm of D's gradient at each image (N,), or at each pack of images (N / pack,).

    Uses `torch.func.vjp`: `autograd.grad` with `create_graph` would also compute the gradients of the weights, and
    drop them.
    """
    logits, pull_back = torch.func.vjp(duel.discriminator, images)[:2]
    (gradient,) = pull_back(torch.ones_like(logits))
    by_pack = gradient.unflatten(0, (duel.pack, -1))  # (pack, N / pack, ...), see `AugmentedDiscriminator.packed`
    return by_pack.square().sum(dim=(0, *range(2, by_pack.ndim)))
