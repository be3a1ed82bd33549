"""Learning rates against PyTorch's own schedulers, and at their ends."""

import warnings

import pytest
import torch
from conftest import rows
from torch.optim import lr_scheduler

from ganduel import schedules
from ganduel.clock import Clock
from ganduel.system.errors import UserError

RATE = 5e-4


def at(images: int) -> Clock:
    """So many images after the beginning, in batches of 30."""
    return Clock(30, 1, images_per_epoch=100, steps=images // 30, images_seen=images)


def pytorch(make) -> list[float]:
    """The learning rates of 20 epochs, by a scheduler that is stepped once an epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], RATE)
    scheduler = make(optimizer)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "scheduler"),
    [
        (schedules.constant(None), lambda o: lr_scheduler.ConstantLR(o, factor=1)),
        (schedules.step("3 epochs", 0.7, 0.0, None), lambda o: lr_scheduler.StepLR(o, 3, gamma=0.7)),
        (schedules.exponential("1 epoch", 0.7, 0.0, None), lambda o: lr_scheduler.ExponentialLR(o, gamma=0.7)),
        (schedules.cosine("20 epochs", 0.0, None, 0.0, None), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=20)),
        (
            schedules.cosine("2 kimg", 0.0, None, 1e-4, None),
            lambda o: lr_scheduler.CosineAnnealingLR(o, 20, eta_min=1e-4),
        ),
        (
            schedules.linear_decay("20 epochs", 0.0, None),
            lambda o: lr_scheduler.LinearLR(o, start_factor=1, end_factor=0, total_iters=20),
        ),
        (
            schedules.linear_decay("20 epochs", 0.5, None),
            lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 - max(0, epoch - 10) / 10),
        ),
        (
            schedules.constant("5 epochs"),
            lambda o: lr_scheduler.LambdaLR(o, lambda epoch: min(epoch / 5, 1)),  # LinearLR cannot begin at 0
        ),
    ],
)
def test_equals_pytorch_over_20_epochs(schedule, scheduler):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pytorch(scheduler)
    assert [schedule(at(100 * epoch), RATE) for epoch in range(20)] == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_units():
    in_steps = schedules.step("10 steps", 0.5, 0.0, None)
    assert [in_steps(at(images), 1.0) for images in (0, 299, 300, 600)] == [1, 1, 0.5, 0.25]
    in_kimg = schedules.step("2.007 kimg", 0.5, 0.0, None)  # times 1000, that is a little too much in floating point
    assert [in_kimg(at(images), 1.0) for images in (2006, 2007, 4014)] == [1, 0.5, 0.25]


def test_between_epochs():
    """Steps are flat, an exponential is not."""
    assert schedules.step("1 epoch", 0.7, 0.0, None)(at(150), RATE) == pytest.approx(0.7 * RATE)
    assert schedules.exponential("1 epoch", 0.7, 0.0, None)(at(150), RATE) == pytest.approx(0.7**1.5 * RATE)


@pytest.mark.parametrize("falling", [schedules.step, schedules.exponential])
def test_floor_is_a_learning_rate(falling):
    """As in "factor 0.7, never below 5e-5"."""
    schedule = falling("1 epoch", 0.7, 5e-5, None)
    assert schedule(at(600), RATE) == pytest.approx(0.7**6 * RATE)
    assert schedule(at(2000), RATE) == 5e-5
    assert schedule(at(2000), 1e-5) == 1e-5  # what is lower already is not raised


def test_beyond_the_length():
    assert schedules.cosine("1 epoch", 0.0, None, 1e-5, None)(at(250), RATE) == pytest.approx(1e-5)
    assert schedules.linear_decay("1 epoch", 0.5, None)(at(250), RATE) == 0


def test_warm_up_is_a_factor():
    schedule = schedules.step("4 epochs", 0.5, 0.0, "8 epochs")
    assert [schedule(at(images), 1.0) for images in (0, 200, 600, 800)] == [0, 0.25, 0.5 * 0.75, 0.25]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.step("5", 0.7, 0.0, None), 'scheduler.every: "5" is not a duration'),
        (lambda: schedules.exponential(5, 0.7, 0.0, None), 'scheduler.every: "5" is not a duration'),
        (lambda: schedules.cosine("long", 0.0, None, 0.0, None), 'scheduler.length: "long" is not a duration'),
        (lambda: schedules.constant("soon"), 'scheduler.warmup: "soon" is not a duration'),
        (lambda: schedules.step("1 epoch", 0.0, 0.0, None), "factor=0.0 must be more than 0"),
        (lambda: schedules.step("1 epoch", 0.5, -1.0, None), "floor=-1.0 must be 0 or more"),
        (lambda: schedules.cosine("1 epoch", 0.0, None, -1.0, None), "end=-1.0 must be 0 or more"),
        (lambda: schedules.step("1 epoch", -0.5, 0.0, None), "factor=-0.5 must be more than 0"),
        (lambda: schedules.linear_decay("1 epoch", 1.0, None), "hold=1.0 must be a share"),
        (lambda: schedules.linear_decay("1 epoch", 1.5, None), "hold=1.5 must be a share"),
        (lambda: schedules.linear_decay("1 epoch", -0.5, None), "hold=-0.5 must be a share"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises((UserError, ValueError), match=message):
        make()


def test_both_learning_rates_are_logged(train):
    """Those of the step before; each player has its own."""
    halving = ("scheduler=step", "scheduler.every=2 steps", "scheduler.factor=0.5", "optimizer.D.lr=0.001")
    assert (
        train(*halving, "scheduler.floor=0.0003", "optimizer.G.lr=0.002", "every.log=1 step", "duration=6 steps") == 0
    )
    for player, expected in (("D", [1e-3, 1e-3, 5e-4, 5e-4, 3e-4, 3e-4]), ("G", [2e-3, 2e-3, 1e-3, 1e-3, 5e-4, 5e-4])):
        assert [row[f"learning_rate/{player}"] for row in rows("runs/tiny")] == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cosine", "linear_decay"])
def test_a_longer_run_does_not_change_its_schedule_silently(train, capsys, name):
    """Its length is the duration unless it is set; whoever lengthens the run says what is to become of it."""
    assert train(f"scheduler={name}") == 0
    assert train(f"scheduler={name}", "duration=6 steps") == 1
    assert "scheduler.length: 4 steps -> 6 steps" in capsys.readouterr().err
    assert train(f"scheduler={name}", "duration=6 steps", "scheduler.length=4 steps") == 0
