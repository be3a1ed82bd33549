"""Look at the networks during training, or try steps, and leave training as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ganduel.dials import assign
from ganduel.trainer import Trainer


@contextmanager
def no_trace(trainer: Trainer, *, steps: bool = False, evaluated: nn.Module | None = None) -> Iterator[None]:
    """Restore everything that the block changes, so that training goes on as if the block had not run.

    This restores PyTorch's random state, the modes of all modules, and buffers such as the statistics of batch
    normalisation. The block cannot compute gradients, so the gradients of the last step stay. `evaluated`, a part of
    the game, is in evaluation mode inside the block.

    With `steps`, the block may call `iterate`. Then the trainer's whole state and the learning rates are restored, and
    all gradients are removed. A copy of the state is kept in the memory of the host.
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
        for group, rate in zip(groups, rates, strict=True):  # a trainer does not load the rates of a state
            assign(group, "lr", rate)
        trainer.load_state_dict(state)
        if trainer.device.type == "cuda":  # training may need other sizes than those just tried
            torch.cuda.empty_cache()


def _copy(value: Any) -> Any:
    """A copy of a state, in the memory of the host."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value
