"""Optimizers under lazy regularization, where a turn takes more steps than one.

With a penalty in every k-th turn, k times as heavy, k turns take k + 1 steps. The settings are changed so that a turn
still moves as far and forgets as much as with one step, c = k / (k + 1) being the turns in a step (Karras et al. 2020,
"Analyzing and Improving the Image Quality of StyleGAN", appendix B, for Adam).
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ganduel.system.errors import UserError

Settings = dict[str, Any]


def correct(optimizer: Callable, settings: Settings, every: dict[str, int]) -> Settings:
    """The settings that change; `every` has the lazy penalties' names and intervals, 2 or more.

    Raises UserError for an optimizer that no correction is known for.
    """
    if optimizer not in CORRECTIONS:
        name = next(iter(every))
        raise UserError(
            f"regularizer.{name}.every={every[name]} is not known to suit {settings['_target_']}: use "
            f"{', '.join(known.__name__ for known in CORRECTIONS)}, or set regularizer.{name}.every=1"
        )
    defaults = {name: p.default for name, p in inspect.signature(optimizer).parameters.items()}
    return CORRECTIONS[optimizer](defaults | settings, 1 / (1 + sum(1 / k for k in every.values())))


def _adam(settings: Settings, c: float) -> Settings:
    """Steps are about lr long whatever the gradient: they shrink."""
    return {"lr": settings["lr"] * c, "betas": [beta**c for beta in settings["betas"]]}


def _rmsprop(settings: Settings, c: float) -> Settings:
    """As for Adam, with the momentum added."""
    momentum = settings["momentum"]
    return {
        "lr": settings["lr"] * c * _keep_sum(momentum, c),
        "alpha": settings["alpha"] ** c,
        "momentum": momentum**c,
    }


def _sgd(settings: Settings, c: float) -> Settings:
    """Steps are proportional to gradients, whose sum over k turns is the same: lr stays, but for the momentum.

    Weight decay is a gradient that every step adds.
    """
    momentum = settings["momentum"]
    return {
        "lr": settings["lr"] * _keep_sum(momentum, c),
        "momentum": momentum**c,
        "weight_decay": settings["weight_decay"] * c,
    }


def _keep_sum(momentum: float, c: float) -> float:
    """The factor on lr with which momentum ** c moves as far on each gradient, in all, as `momentum` did.

    That is lr (1 + momentum + momentum^2 + ...) = lr / (1 - momentum).
    """
    return (1 - momentum**c) / (1 - momentum) if momentum < 1 else c


CORRECTIONS: dict[Callable, Callable[[Settings, float], Settings]] = {
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.SGD: _sgd,
}
