"""Optimizers under lazy regularization move as far and forget as much in a turn as without."""

import pytest
import torch

from ganduel import lazy_regularization
from ganduel.system.errors import UserError

EVERY = 4  # one more step in four turns
SETTINGS = {
    torch.optim.Adam: {"lr": 0.01, "betas": [0.5, 0.9], "weight_decay": 0.0},
    torch.optim.AdamW: {"lr": 0.01, "betas": [0.5, 0.9], "weight_decay": 0.1},
    torch.optim.RMSprop: {"lr": 0.01, "alpha": 0.9, "momentum": 0.5},
    torch.optim.SGD: {"lr": 0.01, "momentum": 0.9, "nesterov": True},
}


@pytest.mark.parametrize(
    ("optimizer", "settings", "expected"),
    [
        (torch.optim.Adam, {"lr": 0.01, "betas": [0.5, 0.9]}, {"lr": 0.008, "betas": [0.5**0.8, 0.9**0.8]}),
        (
            torch.optim.RMSprop,
            {"lr": 0.01, "alpha": 0.9, "momentum": 0.5},
            {"lr": 0.008 * (1 - 0.5**0.8) / 0.5, "alpha": 0.9**0.8, "momentum": 0.5**0.8},
        ),
        (
            torch.optim.SGD,
            {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.3},
            {"lr": 0.01 * (1 - 0.9**0.8) / 0.1, "momentum": 0.9**0.8, "weight_decay": 0.24},
        ),
        (torch.optim.SGD, {"lr": 0.01}, {"lr": 0.01, "momentum": 0, "weight_decay": 0}),
        (torch.optim.SGD, {"lr": 0.01, "momentum": 1}, {"lr": 0.008, "momentum": 1, "weight_decay": 0}),  # the limit
    ],
)
def test_settings_by_hand(optimizer, settings, expected):
    """Four turns in five steps: c = 0.8."""
    assert lazy_regularization.correct(optimizer, settings, {"r1": EVERY}) == {
        name: pytest.approx(value) for name, value in expected.items()
    }


def positions(optimizer: type, settings: dict, steps: list[float], *rounds: int) -> list[float]:
    """Where a weight of 1 is after some rounds of these gradients, then after some more."""
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    mover = optimizer([weight], **settings)
    found = []
    for count in rounds:
        for gradient in steps * count:
            weight.grad = torch.tensor(gradient, dtype=torch.float64)
            mover.step()
        found.append(weight.item())
    return found


def steady(optimizer: type, settings: dict, steps: list[float]) -> float:
    """How far forty rounds of these gradients move a weight, once a hundred have settled the optimizer."""
    settled, after = positions(optimizer, settings, steps, 100, 40)
    return after - settled


@pytest.mark.parametrize("optimizer", SETTINGS)
def test_turns_move_as_far(optimizer):
    """Constant gradients of 1 from the main loss and of 1 from the penalty, joined or in a step of its own."""
    settings = SETTINGS[optimizer]
    corrected = settings | lazy_regularization.correct(optimizer, settings, {"r1": EVERY})
    if optimizer is torch.optim.SGD:
        joined, apart = [2.0] * EVERY, [1.0] * EVERY + [float(EVERY)]
    else:  # the size of gradients that do not change is nothing to it
        joined, apart = [1.0] * EVERY, [1.0] * (EVERY + 1)
    far = steady(optimizer, settings, joined)
    assert steady(optimizer, corrected, apart) == pytest.approx(far, rel=1e-3)
    if optimizer is not torch.optim.SGD:
        assert steady(optimizer, settings, apart) != pytest.approx(far, rel=0.01)


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (torch.optim.Adam, "betas"),
        (torch.optim.RMSprop, "alpha"),
        (torch.optim.RMSprop, "momentum"),
        (torch.optim.SGD, "momentum"),
    ],
)
def test_turns_forget_as_much(optimizer, name):
    settings = SETTINGS[optimizer]
    before, after = settings[name], lazy_regularization.correct(optimizer, settings, {"r1": EVERY})[name]
    before, after = torch.as_tensor(before), torch.as_tensor(after)
    assert torch.allclose(after ** (EVERY + 1), before**EVERY)


def test_weight_decay_of_sgd_decays_as_much():
    settings = {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.01}
    corrected = settings | lazy_regularization.correct(torch.optim.SGD, settings, {"r1": EVERY})
    (without,) = positions(torch.optim.SGD, settings, [0.0] * EVERY, 200)
    assert without < 0.9
    assert positions(torch.optim.SGD, corrected, [0.0] * (EVERY + 1), 200) == pytest.approx([without], rel=1e-3)


def test_two_lazy_penalties_count_both():
    """One in every second turn and one in every fourth: seven steps in four turns."""
    changed = lazy_regularization.correct(torch.optim.Adam, {"lr": 0.7, "betas": [0.5, 0.9]}, {"r1": 2, "r2": 4})
    assert changed["lr"] == pytest.approx(0.7 * 4 / 7)


def test_what_is_left_out_is_pytorchs():
    assert lazy_regularization.correct(torch.optim.SGD, {}, {"r1": 4}) == {
        "lr": 0.001,
        "momentum": 0,
        "weight_decay": 0,
    }


def test_an_optimizer_without_a_correction():
    message = r"regularizer\.r1\.every=4 is not known to suit torch\.optim\.Adagrad: use Adam, AdamW, RMSprop, SGD, or"
    with pytest.raises(UserError, match=message):
        lazy_regularization.correct(torch.optim.Adagrad, {"_target_": "torch.optim.Adagrad"}, {"r1": 4})
