"""Build the networks of a checkpoint. Anyone may have written the file.

A file of some bytes may ask for networks of any size. So they are first built without memory, on PyTorch's device
"meta", and compared with the tensors in the file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from ganduel import build
from ganduel.game import Game

MOST_LAYERS = 100  # modules of a game for each tensor of its file
MOST_BYTES = 2**30  # of the buffers that a game computes when it is built; files do not store them
JUDGES = "discriminators.", "augment."


def restored(config: dict[str, Any], state: dict[str, Any], ema: bool, judged: bool, allow: Sequence[str]) -> Game:
    """The game of a configuration, with the weights of a state.

    The generators are the averaged ones if `ema`, or if the state has no others. A game that is not `judged` has no
    discriminators. Raises ValueError, RuntimeError or UserError if the configuration does not fit the state.
    """

    def made(trial: bool) -> Game:
        with torch.device("meta" if trial else "cpu"):
            game = build.game(config["model"], config["augment"], allow, judged)
        if "game" in state:
            own = {k: v for k, v in state["game"].items() if judged or not k.startswith(JUDGES)}
            game.load_state_dict(own, assign=trial)
        if ema or "game" not in state:
            game.generators.load_state_dict(state["ema"], assign=trial)
        return game

    stored = sum(map(_bytes, [*state.get("game", {}).values(), *state["ema"].values()]))
    with _at_most(MOST_LAYERS * (len(state.get("game", {})) + len(state["ema"]))):
        tried = made(trial=True)
    if sum(map(_bytes, [*tried.parameters(), *tried.buffers()])) > stored + MOST_BYTES:
        raise ValueError("its configuration asks for more than it stores")
    return made(trial=False)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@contextmanager
def _at_most(layers: int) -> Iterator[None]:
    """Raise ValueError as soon as the networks that are built inside have more layers."""
    count = 0

    def look(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal count
        count += 1
        if count > layers:
            raise ValueError("its configuration asks for more layers than it stores")

    hook = register_module_module_registration_hook(look)
    try:
        yield
    finally:
        hook.remove()
