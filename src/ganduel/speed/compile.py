"""Run main losses with networks that torch.compile has compiled."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch

from ganduel.game import Batch, Duel
from ganduel.phases import Numbers
from ganduel.system.errors import UserError
from ganduel.trainer import Executor, Gradients, Move


class Networks(NamedTuple):
    """The networks that a duel calls."""

    generator: Callable
    discriminator: Callable


class Compiled(Executor):
    """Runs phases through another executor. In main losses, duels call compiled networks.

    Penalties call the plain networks, because PyTorch cannot differentiate compiled networks twice.
    """

    def __init__(self, executor: Executor, backend: str | Callable = "inductor"):
        super().__init__(executor.trainer)
        self.inner, self.backend = executor, backend
        self.warm_up, self.separate = executor.warm_up, executor.separate
        self.networks: dict[str, Networks] = {}  # compiled, by the names of the duels

    def gradients(self, move: Move) -> Gradients:
        phase = move.phase
        terms = [t._replace(fn=partial(self.quicker, t.fn)) if t.mixed else t for t in phase.terms]
        return self.inner.gradients(move._replace(phase=phase._replace(terms=terms)))

    def forget(self) -> None:
        self.inner.forget()

    def quicker(self, fn: Callable[[Batch, list[Duel]], Numbers], batch: Batch, duels: list[Duel]) -> Numbers:
        """Evaluate a term with compiled networks. Raises UserError if they cannot be compiled."""
        from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

        try:
            with warnings.catch_warnings(), self.exchanged(duels):  # the compiler reads .grad of tensors that have none
                warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
                return fn(batch, duels)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"compile=true: this model cannot be compiled here ({reason}); set compile=false"
            ) from error

    @contextmanager
    def exchanged(self, duels: list[Duel]) -> Iterator[None]:
        """Give duels the compiled networks inside the block."""
        plain = [Networks(duel.generator, duel.discriminator.network) for duel in duels]
        for duel, own in zip(duels, plain, strict=True):
            if duel.name not in self.networks:
                compiled = (torch.compile(network, backend=self.backend) for network in own)
                self.networks[duel.name] = Networks(*compiled)
            duel.generator, duel.discriminator.network = self.networks[duel.name]
        try:
            yield
        finally:
            for duel, own in zip(duels, plain, strict=True):
                duel.generator, duel.discriminator.network = own
