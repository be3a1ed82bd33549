"""Networks compiled by torch.compile."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ganduel.game import Batch, Duel
from ganduel.system.errors import UserError
from ganduel.trainer import Numbers, Trainer


def compile_networks(trainer: Trainer, backend: str | Callable = "inductor") -> None:
    """Let the main losses call their networks through torch.compile. Penalties call them as they are, for PyTorch does
    not differentiate twice what it has compiled."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    networks = [*trainer.game.generators.values(), *trainer.game.discriminators.values()]
    compiled: list[Callable] = [torch.compile(network.forward, backend=backend) for network in networks]

    @contextmanager
    def exchanged() -> Iterator[None]:
        for network, forward in zip(networks, compiled, strict=True):
            vars(network)["forward"] = forward  # in place of the method
        try:
            with warnings.catch_warnings():  # the compiler looks at what it may not
                warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
                yield
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"compile=true: this model cannot be compiled here ({reason}); set compile=false"
            ) from error
        finally:
            for network in networks:
                del vars(network)["forward"]

    def quicker(fn: Callable[[Batch, list[Duel]], Numbers]) -> Callable[[Batch, list[Duel]], Numbers]:
        def inside(batch: Batch, duels: list[Duel]) -> Numbers:
            with exchanged():
                return fn(batch, duels)

        return inside

    for player in trainer.players.values():
        player.phases = [
            phase._replace(terms=[t._replace(fn=quicker(t.fn)) if t.mixed else t for t in phase.terms])
            for phase in player.phases
        ]
