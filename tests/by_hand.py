"""A duel that is small enough for paper: as the trainer sees it, and by hand, in NumPy and float64.

D is D(x) = w.x + b + q/2 |x|^2 = theta . phi(x), with theta = (w, b, q) and phi(x) = (x, 1, |x|^2 / 2). So its
derivative by theta is phi(x), and its slope, the gradient at an image, is w + q x. The generator is G(z) = A (z, 1).
Images are (N, 1, 2, 2) for the trainer and (N, 4) by hand. The optimizer is plain gradient descent.
By hand, all derivatives are written out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganduel import build, losses, randomness, regularizers
from ganduel.augment import Chain
from ganduel.clock import Clock
from ganduel.data.image_set import ImageSet, Pair
from ganduel.data.store import Raw
from ganduel.ema import EMA
from ganduel.game import Game, Generator, LatentGame
from ganduel.losses import AdversarialLoss
from ganduel.regularizers import Projection, Regularizer
from ganduel.schedules import Schedule
from ganduel.trainer import Trainer
from ganduel.turns import Turns

Array = np.ndarray
CPU = torch.device("cpu")
N, SEED = 4, 7
HELD_OUT = 10  # images
RATE_D, RATE_G = 0.1, 0.3
ALTERNATING: dict[str, Any] = {  # settings of `Turns`: one turn each, D's first
    "n_critic": 1,
    "n_generator": 1,
    "first": "D",
    "loss_floor": None,
    "accuracy_ceiling": None,
    "share": False,
    "reals": "same",
    "repeat": False,
    "top": 1.0,
    "unroll": 0,
    "unroll_rate": 0.1,
}

# The duel as the trainer sees it.


class QuadraticDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([-1.2, 0.8, 1.1, -1.0, 0.3, -0.5]))

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        return torch.cat([x, torch.ones(len(x), 1), x.square().sum(1, keepdim=True) / 2], 1) @ self.theta


class LinearGenerator(Generator):
    latent = 2

    def __init__(self) -> None:
        super().__init__()
        rows = [[-0.7, 0.1, 0.1], [-0.3, 0.4, -0.4], [-0.4, -0.8, 0.1], [-0.4, -0.2, -0.6]]
        self.A = nn.Parameter(torch.tensor(rows))

    def synthesis(self, w: Tensor, seed: Tensor | None = None) -> Tensor:
        return (torch.cat([w, torch.ones(len(w), 1)], 1) @ self.A.T).view(-1, 1, 2, 2)


def image_set(seed: int, count: int = HELD_OUT) -> ImageSet:
    """24 images to train on, and so many held out: two and a half batches."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24 + count, 1, 2, 2), np.uint8)
    train, held_out = torch.arange(24 + count, dtype=torch.int32).split((24, count))
    about = {"shards": None}
    return ImageSet(Raw(torch.from_numpy(pixels)), about, train, held_out, resolution=2, augment=Chain(), device=CPU)


def duel(
    loss: AdversarialLoss | None = None,
    penalties: dict[str, Regularizer | Projection] | None = None,
    *,
    game: Game | None = None,
    images: ImageSet | Pair | None = None,
    optimizer: dict[str, Any] | None = None,
    schedule: Schedule = lambda clock, rate: rate,
    schedules: dict[str, Schedule] | None = None,
    micro_batch: int = N,
    loss_ema: float = 0.0,
    ema: tuple[float, float | None] = (0.0, None),
    **moves: Any,
) -> Trainer:
    """By default Wasserstein's loss, and one turn each, D's first. `schedule` is of both rates; `ema` is the averages'
    half-life and ramp."""
    game = game or LatentGame(LinearGenerator(), QuadraticDiscriminator(), Chain())
    penalties = penalties or {}

    def moved(player: str, networks: nn.Module, rate: float) -> torch.optim.Optimizer:
        settings = {"_target_": "torch.optim.SGD", "lr": rate, **(optimizer or {})}
        own = {n: r for n, r in penalties.items() if isinstance(r, Regularizer) and r.player == player}
        return build.optimizer(settings, f"optimizer.{player}", [], networks, own, CPU)

    turns = Turns(**ALTERNATING | moves)
    return Trainer(
        game,
        loss or losses.wasserstein(),
        penalties,
        turns,
        Clock(N * turns.batches, turns.n_generator, images_per_epoch=24),
        images or image_set(0),
        EMA(game.generators, *ema),
        {"D": moved("D", game.discriminators, RATE_D), "G": moved("G", game.generators, RATE_G)},
        {"optimizer.D.lr": schedule, "optimizer.G.lr": schedule, **(schedules or {})},
        seed=SEED,
        batch_size=N,
        micro_batch=micro_batch,
        loss_ema=loss_ema,
        dtype=torch.float32,
        device=CPU,
    )


def numpy(x: Tensor) -> Array:
    """One row an image, in float64."""
    return x.detach().double().numpy().reshape(len(x), -1)


def weights(one: Trainer) -> tuple[Array, Array]:
    """Copies of theta and A."""
    return numpy(one.game.discriminators["D"].theta)[:, 0], numpy(one.game.generators["G"].A)


def reals(one: Trainer, position: int) -> Array:
    """The batch that begins at a position of the shuffled sequence."""
    return numpy(one.images.batch(position, N)["real"])


def seeds(player: str, nth: int = 0, iteration: int = 0) -> Tensor:
    """Of the images of a turn: the player's `nth` of the iteration."""
    return randomness.seeds(SEED, "turn", iteration, player, nth, first=0, count=N)


def latents(player: str, nth: int = 0, iteration: int = 0) -> Array:
    return numpy(randomness.normal(seeds(player, nth, iteration), (2,), "latent"))


def close(expected: Any) -> Any:
    """Equal, but for the rounding of float32."""
    return pytest.approx(expected, rel=2e-5, abs=2e-6)


def expect(one: Trainer, theta: Array, A: Array, numbers: dict[str, float] | None = None) -> None:
    """The weights, and some of the logged means."""
    of_D, of_G = weights(one)
    assert of_D == close(theta)
    assert of_G == close(A)
    assert {name: value for name, value in one.stats.means().items() if name in (numbers or {})} == close(numbers or {})


# The duel by hand.


def phi(x: Array) -> Array:
    return np.hstack([x, np.ones((len(x), 1)), (x**2).sum(1, keepdims=True) / 2])


def D(theta: Array, x: Array) -> Array:
    return phi(x) @ theta


def slope(theta: Array, x: Array) -> Array:
    return theta[:4] + theta[5] * x


def with_one(z: Array) -> Array:
    return np.hstack([z, np.ones((len(z), 1))])


def G(A: Array, z: Array) -> Array:
    return with_one(z) @ A.T


def gradient_of_D(real: Array, fake: Array) -> Array:
    """Of Wasserstein's loss, mean D(fake) - mean D(real), by theta."""
    return phi(fake).mean(0) - phi(real).mean(0)


def gradient_of_G(theta: Array, A: Array, z: Array) -> Array:
    """Of Wasserstein's loss, - mean D(G(z)), by A."""
    return -slope(theta, G(A, z)).T @ with_one(z) / N


def sigma(t: Array) -> Array:
    return 1 / (1 + np.exp(-t))


# Losses.


class LossByHand(NamedTuple):
    """A loss as the trainer takes it; and both sides by hand: one value an image, and its derivatives by the logits."""

    loss: AdversarialLoss
    of_D: Callable[[Array, Array], tuple[Array, Array, Array]]  # (real, fake) -> value, by real, by fake
    of_G: Callable[[Array, Array], tuple[Array, Array]]  # (real, fake) -> value, by fake
    boundary: float | None = 0.0


def cross_entropy(y_real: float, y_fake: float) -> Callable[[Array, Array], tuple[Array, Array, Array]]:
    def of_D(r: Array, f: Array) -> tuple[Array, Array, Array]:
        of_real = -y_real * np.log(sigma(r)) - (1 - y_real) * np.log(1 - sigma(r))
        of_fake = -y_fake * np.log(sigma(f)) - (1 - y_fake) * np.log(1 - sigma(f))
        return of_real + of_fake, sigma(r) - y_real, sigma(f) - y_fake

    return of_D


def nonsaturating(r: Array, f: Array) -> tuple[Array, Array]:
    return -np.log(sigma(f)), sigma(f) - 1


def minus_logit(r: Array, f: Array) -> tuple[Array, Array]:
    return -f, -np.ones(N)


LOSSES = {
    "nonsaturating": LossByHand(losses.nonsaturating(0.0, 0.0, 0.0, 0.0), cross_entropy(1, 0), nonsaturating),
    "smoothed": LossByHand(losses.nonsaturating(0.1, 0.05, 0.0, 0.0), cross_entropy(0.9, 0.05), nonsaturating),
    "flipped": LossByHand(losses.nonsaturating(0.1, 0.05, 1.0, 0.0), cross_entropy(0.05, 0.9), nonsaturating),
    "minimax": LossByHand(
        losses.minimax(0.1, 0.0, 0.0, 0.0), cross_entropy(0.9, 0), lambda r, f: (np.log(1 - sigma(f)), -sigma(f))
    ),
    "least_squares": LossByHand(
        losses.least_squares(a=-2.0, b=0.6, c=0.7, discriminator=2.5, generator=1.5, flip=0.0, noise=0.0),
        lambda r, f: (2.5 * (r - 0.6) ** 2 + 2.5 * (f + 2) ** 2, 5 * (r - 0.6), 5 * (f + 2)),
        lambda r, f: (1.5 * (f - 0.7) ** 2, 3 * (f - 0.7)),
        boundary=-0.7,
    ),
    "hinge": LossByHand(
        losses.hinge(),
        lambda r, f: (np.maximum(1 - r, 0) + np.maximum(1 + f, 0), -1.0 * (r < 1), 1.0 * (f > -1)),
        minus_logit,
    ),
    "wasserstein": LossByHand(
        losses.wasserstein(), lambda r, f: (f - r, -np.ones(N), np.ones(N)), minus_logit, boundary=None
    ),
    "relativistic": LossByHand(
        losses.relativistic(),
        lambda r, f: (-np.log(sigma(r - f)), -sigma(f - r), sigma(f - r)),
        lambda r, f: (-np.log(sigma(f - r)), -sigma(r - f)),
        boundary=None,
    ),
}


def turn_of_D(by: LossByHand, theta: Array, real: Array, fake: Array) -> tuple[float, Array]:
    """D's loss, and theta after a step."""
    value, by_real, by_fake = by.of_D(D(theta, real), D(theta, fake))
    return value.mean(), theta - RATE_D * (by_real @ phi(real) + by_fake @ phi(fake)) / N


def turn_of_G(by: LossByHand, theta: Array, A: Array, real: Array, z: Array) -> tuple[float, Array]:
    """G's loss, and A after a step."""
    fake = G(A, z)
    value, by_fake = by.of_G(D(theta, real), D(theta, fake))
    return value.mean(), A - RATE_G * (by_fake[:, None] * slope(theta, fake)).T @ with_one(z) / N


# Penalties. Those of D are functions of the length of its slope at some points.


class PenaltyByHand(NamedTuple):
    fn: Callable[..., Any]  # as the trainer takes it
    points: Callable[[Array, Array, Tensor], Array]  # (real, fake, seeds) -> where the slope is taken
    of_length: Callable[[Array], tuple[Array, Array]]  # -> value, derivative


def between(real: Array, fake: Array, seed: Tensor) -> Array:
    return real + numpy(randomness.uniform(seed, (1,), "interpolate")) * (fake - real)


def around(real: Array, fake: Array, seed: Tensor) -> Array:
    noise = numpy(randomness.normal(seed, (4,), "dragan"))
    return real + 0.5 * real.std(1, ddof=1, keepdims=True) * noise


def squared(length: Array) -> tuple[Array, Array]:
    return length**2, 2 * length


def from_two(length: Array) -> tuple[Array, Array]:
    return (length - 2) ** 2, 2 * (length - 2)


def above_two(length: Array) -> tuple[Array, Array]:
    assert length.min() < 2 < length.max()
    return np.maximum(length - 2, 0) ** 2, 2 * np.maximum(length - 2, 0)


PENALTIES = {
    "r1": PenaltyByHand(regularizers.r1, lambda real, fake, seed: real, squared),
    "r2": PenaltyByHand(regularizers.r2, lambda real, fake, seed: fake, squared),
    "gradient_penalty": PenaltyByHand(regularizers.GradientPenalty(2.0, one_sided=False), between, from_two),
    "one_sided": PenaltyByHand(regularizers.GradientPenalty(2.0, one_sided=True), between, above_two),
    "dragan": PenaltyByHand(regularizers.DRAGAN(target=2.0, spread=0.5), around, from_two),
}


def penalty(name: str, theta: Array, real: Array, fake: Array, seed: Tensor) -> tuple[float, Array]:
    """Its mean over the images, without the weight, and its gradient by theta = (w, b, q), for the slope is w + q x."""
    by = PENALTIES[name]
    x = by.points(real, fake, seed)
    s = slope(theta, x)
    length = np.linalg.norm(s, axis=1)
    value, derivative = by.of_length(length)
    by_slope = derivative[:, None] * s / length[:, None]
    return value.mean(), np.array([*by_slope.sum(0), 0, (by_slope * x).sum()]) / N


# Optimizers.


Step = Callable[[Array, Array], Array]  # (weights, gradient) -> weights


def adam(lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> Step:
    """Kingma and Ba 2015, algorithm 1; with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""
    (beta1, beta2), t, m, v = betas, 0, np.zeros(6), np.zeros(6)

    def step(theta: Array, gradient: Array) -> Array:
        nonlocal t, m, v
        t, m, v = t + 1, beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        return (1 - lr * weight_decay) * theta - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + 1e-8)

    return step


def rmsprop(lr: float, alpha: float, momentum: float) -> Step:
    v, velocity = np.zeros(6), np.zeros(6)

    def step(theta: Array, gradient: Array) -> Array:
        nonlocal v, velocity
        v = alpha * v + (1 - alpha) * gradient**2
        velocity = momentum * velocity + gradient / (np.sqrt(v) + 1e-8)
        return theta - lr * velocity

    return step


def descent(lr: float, momentum: float, weight_decay: float) -> Step:
    velocity = np.zeros(6)

    def step(theta: Array, gradient: Array) -> Array:
        nonlocal velocity
        velocity = momentum * velocity + gradient + weight_decay * theta
        return theta - lr * velocity

    return step


class OptimizerByHand(NamedTuple):
    """`corrected` are the settings under lazy penalties, given c, the number of turns in a step."""

    step: Callable[..., Step]  # settings -> its steps
    settings: dict[str, Any]
    corrected: Callable[[float], dict[str, Any]]


OPTIMIZERS = {
    "Adam": OptimizerByHand(
        adam, {"lr": 0.03, "betas": (0.5, 0.9)}, lambda c: {"lr": 0.03 * c, "betas": (0.5**c, 0.9**c)}
    ),
    "AdamW": OptimizerByHand(
        adam,
        {"lr": 0.03, "betas": (0.5, 0.9), "weight_decay": 0.4},
        lambda c: {"lr": 0.03 * c, "betas": (0.5**c, 0.9**c), "weight_decay": 0.4},
    ),
    "RMSprop": OptimizerByHand(
        rmsprop,
        {"lr": 0.03, "alpha": 0.9, "momentum": 0.5},
        lambda c: {"lr": 0.03 * c * (1 - 0.5**c) / (1 - 0.5), "alpha": 0.9**c, "momentum": 0.5**c},
    ),
    "SGD": OptimizerByHand(
        descent,
        {"lr": 0.03, "momentum": 0.5, "weight_decay": 0.4},
        lambda c: {"lr": 0.03 * (1 - 0.5**c) / (1 - 0.5), "momentum": 0.5**c, "weight_decay": 0.4 * c},
    ),
}
