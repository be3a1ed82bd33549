"""Which player moves when: the order of turns in an iteration, and the gate that makes D wait."""

import copy
import math
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from ganduel.game import AugmentedDiscriminator, Duel
from ganduel.losses import AdversarialLoss
from ganduel.regularizers import still


class Turn(NamedTuple):
    """One turn of a player in an iteration."""

    player: str  # "D" or "G"
    nth: int  # number of this player's earlier turns in this iteration
    reals: int  # index of its batch of real images within this iteration


class Gate(NamedTuple):
    """The gate is closed if D is too strong: its loss is below the floor or its accuracy is above the ceiling.

    None sets no limit. If the gate is closed, D's turn still runs and counts, but D does not change. So the gate opens
    again when G has caught up.
    """

    loss_floor: float | None
    accuracy_ceiling: float | None

    def closed(self, loss: float, accuracy: float) -> bool:
        """Whether D must wait, from its adversarial loss and accuracy on one whole batch. NaN breaks no limit."""
        return (self.loss_floor is not None and loss < self.loss_floor) or (
            self.accuracy_ceiling is not None and accuracy > self.accuracy_ceiling
        )


class Turns:
    """The turns of an iteration: `n_critic` of D and `n_generator` of G. The player `first` moves first.

    Every turn of D gets a new batch of real images; with `repeat`, all of its turns in an iteration get the same one.
    `batches` counts them. G's turns get the batch that D saw last or, if G moves first, the batch that D sees next. If
    `reals` is "next", they get the first batch of the next iteration, so that a relativistic
    loss compares fakes with other real images in G's turn than in D's. With a `loss_floor` or an `accuracy_ceiling`, D
    changes only if its `Gate` is open. With `share`, the second player's first turn reuses the fakes of the turn before
    (see `sharing`).

    G's loss takes the share `top` of its fakes; see `best`. It sees D after `unroll` more steps; see `ahead`.

    Raises ValueError if a number of turns is below 1, if the ceiling is not in (0, 1), if `top` is not in (0, 1], if
    `unroll` is negative, if `unroll_rate` is not above 0, or if the players share fakes and either G moves first and a
    player has more than one turn, or `reals` is "next".
    """

    def __init__(
        self,
        n_critic: int,
        n_generator: int,
        first: Literal["D", "G"],
        loss_floor: float | None,
        accuracy_ceiling: float | None,
        share: bool,
        reals: Literal["same", "next"],
        repeat: bool,
        top: float,
        unroll: int,
        unroll_rate: float,
    ):
        if n_critic < 1 or n_generator < 1:
            raise ValueError(f"n_critic={n_critic} and n_generator={n_generator} must be at least 1")
        if accuracy_ceiling is not None and not 0 < accuracy_ceiling < 1:
            raise ValueError(f"accuracy_ceiling={accuracy_ceiling} must be a share between 0 and 1, or null")
        if not 0 < top <= 1:
            raise ValueError(f"top={top} must be a share of the fakes, above 0 and at most 1")
        if unroll < 0 or unroll_rate <= 0:
            raise ValueError(f"unroll={unroll} must be 0 or more steps of D, and unroll_rate={unroll_rate} above 0")
        if share and first == "G" and (n_critic, n_generator) != (1, 1):
            raise ValueError("share=true with G first is for one turn each: set n_critic=1 and n_generator=1")
        if share and reals == "next":
            raise ValueError(
                "reals=next gives G other labels than its shared fakes have; set share=false or reals=same"
            )
        gated = loss_floor is not None or accuracy_ceiling is not None
        self.gate = Gate(loss_floor, accuracy_ceiling) if gated else None
        self.n_critic, self.n_generator, self.share, self.top = n_critic, n_generator, share, top
        self.unroll, self.unroll_rate = unroll, unroll_rate
        self.batches = 1 if repeat else n_critic
        of_d = [Turn("D", i, min(i, self.batches - 1)) for i in range(n_critic)]
        of_reals = self.batches if reals == "next" else self.batches - 1 if first == "D" else 0
        of_g = [Turn("G", i, of_reals) for i in range(n_generator)]
        self.order = of_d + of_g if first == "D" else of_g + of_d

    def count(self, player: str) -> int:
        """The number of turns of a player per iteration."""
        return self.n_critic if player == "D" else self.n_generator

    def best(self, fake: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The rows of the logits (N, ...) that G's loss takes: those of the fakes that D scores highest, a share `top`
        rounded up, and of the real images that they meet (Sinha et al. 2020, "Top-k Training of GANs").

        The fakes of one micro batch and process compete with each other.
        """
        if self.top == 1:
            return fake, real
        count = max(1, math.ceil(self.top * len(fake) * (1 - 1e-12)))  # in floats, 0.07 * 100 is slightly above 7
        chosen = fake.reshape(len(fake), -1).mean(dim=1).topk(count).indices
        return fake[chosen], None if real is None else real[chosen]

    def ahead(self, duel: Duel, loss: AdversarialLoss) -> AugmentedDiscriminator:
        """D as it will be after `unroll` more steps, for G's loss (Metz et al. 2017, "Unrolled GANs").

        The steps are gradient descent of D's main loss at `unroll_rate`, on the duel's images. G's gradient goes
        through them, so G learns what D would answer. D itself stays. Without gradients, as in validation, and with
        `unroll` = 0, this is D as it is. Each micro batch and each process unrolls its own images.
        """
        if not self.unroll or not torch.is_grad_enabled():
            return duel.discriminator
        network, later = duel.discriminator.network, copy.copy(duel.discriminator)
        assert isinstance(network, torch.nn.Module)
        weights = {name: w.detach().requires_grad_() for name, w in network.named_parameters()}
        with still(network):
            for _ in range(self.unroll):
                later.network = partial(functional_call, network, weights)
                of_d = loss.discriminator(*later.both(duel.real, duel.fake), None)
                steps = torch.autograd.grad(of_d, [*weights.values()], create_graph=True)
                pairs = zip(weights.items(), steps, strict=True)
                weights = {name: w - self.unroll_rate * step for (name, w), step in pairs}
        later.network = partial(functional_call, network, weights)
        return later
