"""What is done in the middle of training, and changes nothing of it."""

import copy

import pytest
import torch
from conftest import assert_equal

from ganduel.no_trace import no_trace


def disturb(one):
    """All that a look may change."""
    torch.rand(3)
    for buffer in one.game.buffers():
        buffer += 1
    one.game.generators.eval()


def kept(one):
    modes = [module.training for module in one.game.modules()]
    return [copy.deepcopy(one.state_dict()), torch.get_rng_state(), modes, [p.grad for p in one.game.parameters()]]


@pytest.mark.parametrize("raised", [False, True])
def test_a_look_leaves_no_trace(trainer, raised):
    """Random numbers, buffers, modes and the last step's gradients; also where something goes wrong inside."""
    one = trainer(model="vanilla")
    one.iterate()
    one.game.generators["G"].layers[0].eval()  # a mode of its own is kept
    before = kept(one)
    try:
        with no_trace(one, evaluated=one.game.discriminators):
            assert one.game.generators.training and not torch.is_grad_enabled()
            assert not any(module.training for module in one.game.discriminators.modules())
            disturb(one)
            if raised:
                raise KeyError
    except KeyError:
        pass
    assert torch.is_grad_enabled()
    assert_equal(kept(one), before)


@pytest.mark.parametrize("raised", [False, True])
def test_steps_leave_no_trace(trainer, raised):
    """The whole state and the learning rates; gradients are gone."""
    one = trainer("scheduler=linear_decay", "duration=8 steps", model="vanilla")
    one.iterate()
    rates = [player.optimizer.param_groups[0]["lr"] for player in one.players.values()]
    *before, _ = kept(one)
    try:
        with no_trace(one, steps=True):
            for _ in range(6):
                one.iterate()
            assert rates != [player.optimizer.param_groups[0]["lr"] for player in one.players.values()]
            disturb(one)
            if raised:
                raise KeyError
    except KeyError:
        pass
    *after, gradients = kept(one)
    assert_equal(after, before)
    assert rates == [player.optimizer.param_groups[0]["lr"] for player in one.players.values()]
    assert set(gradients) == {None}
