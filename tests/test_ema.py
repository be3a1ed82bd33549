"""The averaged generators."""

import pytest
import torch
from torch import nn

from ganduel import schedules
from ganduel.clock import Clock
from ganduel.ema import EMA, decay


def network() -> nn.ModuleDict:
    return nn.ModuleDict({"G": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))})


def test_half_of_the_past_remains_after_a_half_life():
    generators = network()
    ema = EMA(generators, half_life=1000, ramp=None)
    before = generators["G"][0].weight.detach().clone()
    with torch.no_grad():
        generators["G"][0].weight += 1
        generators["G"][1].running_mean += 2
        generators["G"][1].num_batches_tracked += 3
    for _ in range(10):
        ema.update(images=100, images_seen=10_000)
    average = ema.generators["G"]
    assert torch.allclose(average[0].weight, before + 0.5, atol=1e-6)
    assert torch.allclose(average[1].running_mean, torch.full((2,), 1.0), atol=1e-6)
    assert average[1].num_batches_tracked == 3
    assert not average.training and not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize(("half_life", "past"), [(100, 0.25), (400, 0.5**0.5), (0, 0.0)])
def test_one_step_by_hand(half_life, past):
    """After 200 images; a half-life of 0 follows at once."""
    generators = nn.ModuleDict({"G": nn.Linear(1, 1, bias=False)})
    nn.init.constant_(generators["G"].weight, 3.0)
    ema = EMA(generators, half_life, ramp=None)
    nn.init.constant_(generators["G"].weight, 7.0)
    ema.update(images=200, images_seen=5000)
    assert ema.generators["G"].weight.item() == pytest.approx(7 - 4 * past)


def test_a_half_life_may_be_less_than_an_image():
    assert decay(images=1, half_life=0.5) == 0.25


def test_ramp():
    ema = EMA(network(), half_life=1000, ramp=0.05)
    assert ema.decay(images=100, images_seen=2000) == pytest.approx(0.5)  # a half-life of 5 % of 2,000
    assert ema.decay(images=100, images_seen=1_000_000) == pytest.approx(0.5**0.1)
    assert ema.decay(images=100, images_seen=0) == 0  # follows at once


def test_a_ramp_is_a_schedule_of_the_half_life():
    """From 0, along a line, to the half-life after the time half-life / ramp, as docs/schedules.md says."""
    ramp = schedules.linear("20 kimg", hold=0.0, start=0.0, end=None, warmup=None)
    for images_seen in (0, 100, 2_000, 19_900, 20_000, 1_000_000):
        now = ramp(Clock(100, 1, 1000, images_seen=images_seen), 1000.0)
        moved, usual = EMA(network(), half_life=now, ramp=None), EMA(network(), half_life=1000, ramp=0.05)
        assert moved.decay(100, images_seen) == pytest.approx(usual.decay(100, images_seen))


def test_without_an_average_the_weights_themselves_are_sampled(trainer):
    one = trainer("ema.half_life=null")
    one.iterate()
    own, averaged = (part.state_dict() for part in (one.game.generators, one.ema.generators))
    assert own.keys() == averaged.keys() and all(torch.equal(own[name], averaged[name]) for name in own)
