"""A game: which networks exist, how discriminators meet images, and what else generators owe.

A `Duel` is one critic facing one batch of real and one of fake images. Losses and penalties only ever see duels; the
trainer only ever sees games. Images are (N, C, H, W) in [-1, 1].
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ganduel import randomness
from ganduel.augment import Chain

Batch = dict[str, Tensor]
"""Tensors of equal length: "real" images and one "seed" an image, from which all that is random about it comes."""


class Critic:
    """A discriminator as losses and penalties see it: behind the augmentation, float32 in, float32 logits out."""

    def __init__(self, discriminator: nn.Module, augment: nn.Module, seed: Tensor):
        self.discriminator, self.augment, self.seed = discriminator, augment, seed

    def __call__(self, images: Tensor) -> Tensor:
        # One stream a call, so that real and fake images are augmented independently; the same calls come in the
        # same order in every micro batch.
        self.seed = self.seed + randomness.GOLDEN
        return self.discriminator(self.augment(images.float(), self.seed[: len(images)])).float()


@dataclass
class Duel:
    """One critic, one batch of real images and what fake ones are made from."""

    name: str  # "" where there is only one; names the losses
    critic: Callable[[Tensor], Tensor]
    real: Tensor
    latent: Tensor
    generate: Callable[[Tensor], Tensor]
    seed: Tensor  # one an image, (N,): what is random about the duel is hashed from it

    @cached_property
    def fake(self) -> Tensor:
        """Made on first use: a penalty on real images costs no generator."""
        return self.generate(self.latent)


class Game(nn.Module, ABC):
    """The networks and their rules. Subclasses say how a batch becomes duels."""

    def __init__(self, generators: dict[str, nn.Module], discriminators: dict[str, nn.Module], augment: Chain):
        super().__init__()
        self.generators = nn.ModuleDict(generators)
        self.discriminators = nn.ModuleDict(discriminators)
        self.augment = augment

    @abstractmethod
    def duels(self, batch: Batch) -> list[Duel]:
        """Who meets what in this batch."""

    def extras(self, batch: Batch, duels: list[Duel]) -> dict[str, Tensor]:
        """Further named scalars that the generators minimise, weighted (a cycle loss, say)."""
        return {}

    @abstractmethod
    def sample(self, generators: nn.ModuleDict, seed: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of the seeds (N,), by these generators (the averaged ones, usually)."""


class NoiseGame(Game):
    """Noise to image: one generator, one discriminator, a standard normal latent of `generator.latent` numbers."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, augment: Chain):
        super().__init__({"G": generator}, {"D": discriminator}, augment)

    def duels(self, batch: Batch) -> list[Duel]:
        return [
            Duel(
                name="",
                critic=Critic(self.discriminators["D"], self.augment, batch["seed"]),
                real=batch["real"],
                latent=self.latent(self.generators, batch["seed"]),
                generate=self.generators["G"],
                seed=batch["seed"],
            )
        ]

    def sample(self, generators: nn.ModuleDict, seed: Tensor) -> Tensor:
        with torch.no_grad():
            return generators["G"](self.latent(generators, seed)).float()

    @staticmethod
    def latent(generators: nn.ModuleDict, seed: Tensor) -> Tensor:
        width = generators["G"].latent
        assert isinstance(width, int)
        return randomness.normal(seed, (width,), "latent")
