"""Optimizer settings for lazy regularization, where a turn takes more than one step on average.

With a penalty in every k-th turn, with k times the weight, k turns take k + 1 steps. The corrected settings make a turn
move as far and forget as much as one plain step would. c = k / (k + 1) is the number of turns per step (Karras et al.
2020, "Analyzing and Improving the Image Quality of StyleGAN", appendix B, for Adam).
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ganduel.system.errors import UserError

Settings = dict[str, Any]


def correct(optimizer: Callable, settings: Settings, every: dict[str, int]) -> Settings:
    """The settings that change. `every` maps the names of the lazy penalties to their intervals, 2 or more.

    Raises UserError if no correction for the optimizer is known.
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
    """A step has length about lr, whatever the gradient, so lr shrinks."""
    return {"lr": settings["lr"] * c, "betas": [beta**c for beta in settings["betas"]]}


def _rmsprop(settings: Settings, c: float) -> Settings:
    """As for Adam, and corrects the momentum."""
    momentum = settings["momentum"]
    return {
        "lr": settings["lr"] * c * _keep_sum(momentum, c),
        "alpha": settings["alpha"] ** c,
        "momentum": momentum**c,
    }


def _sgd(settings: Settings, c: float) -> Settings:
    """Steps are proportional to gradients. Their sum over k turns is unchanged, so lr changes only with the momentum.

    Every step adds weight decay, so it shrinks.
    """
    momentum = settings["momentum"]
    return {
        "lr": settings["lr"] * _keep_sum(momentum, c),
        "momentum": momentum**c,
        "weight_decay": settings["weight_decay"] * c,
    }


def _keep_sum(momentum: float, c: float) -> float:
    """The factor on lr with which a gradient moves the weights as far under momentum ** c as under `momentum`.

    In total a gradient moves them by lr (1 + momentum + momentum^2 + ...) = lr / (1 - momentum).
    """
    return (1 - momentum**c) / (1 - momentum) if momentum < 1 else c


CORRECTIONS: dict[Callable, Callable[[Settings, float], Settings]] = {
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.SGD: _sgd,
}
