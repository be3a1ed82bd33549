"""How a forecast, a validation, a check, a picture or a summary leaves training as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ganduel.trainer import Trainer, assign_rate


@contextmanager
def no_trace(trainer: Trainer, *, steps: bool = False, evaluated: nn.Module | None = None) -> Iterator[None]:
    """Put back what is changed inside, so that training goes on as if nothing had been done.

    Put back are PyTorch's random state, the modes of all modules, and buffers such as the statistics of batch
    normalisation. No gradient can be computed inside, so those of the last step stay. `evaluated`, a part of the game,
    is in evaluation mode inside.

    With `steps`, the trainer may step inside. Then its whole state is put back, and learning rates; gradients are gone.
    The state lies on the host meanwhile.
    """
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    modes = [(module, module.training) for module in trainer.game.modules()]
    if evaluated is not None:
        evaluated.eval()
    with torch.random.fork_rng(devices), _steps_undone(trainer) if steps else _networks_kept(trainer.game):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def _networks_kept(game: nn.Module) -> Iterator[None]:
    buffers = [(buffer, buffer.clone()) for buffer in game.buffers()]
    with torch.no_grad():
        try:
            yield
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)


@contextmanager
def _steps_undone(trainer: Trainer) -> Iterator[None]:
    state = _copy(trainer.state_dict())
    groups = [group for player in trainer.players.values() for group in player.optimizer.param_groups]
    rates = [float(group["lr"]) for group in groups]
    try:
        yield
    finally:
        trainer.game.zero_grad(set_to_none=True)
        for group, rate in zip(groups, rates, strict=True):  # which a state brings, but a trainer does not take
            assign_rate(group, rate)
        trainer.load_state_dict(state)
        if trainer.device.type == "cuda":  # what was tried is not what will be needed
            torch.cuda.empty_cache()


def _copy(value: Any) -> Any:
    """A state on the host, in memory of its own."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value
