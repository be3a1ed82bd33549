"""Losses against their equations."""

import math

import pytest
import torch

from ganduel import losses

REAL, FAKE = torch.tensor([0.3, -1.2]), torch.tensor([2.0, -0.5])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("loss", [losses.minimax(), losses.nonsaturating()])
def test_cross_entropy_of_the_discriminator(loss):
    expected = mean([-math.log(sigmoid(x)) for x in REAL.tolist()]) + mean(
        [-math.log(1 - sigmoid(x)) for x in FAKE.tolist()]
    )
    assert float(loss.discriminator(REAL, FAKE)) == pytest.approx(expected, rel=1e-5)


def test_generators():
    fakes = FAKE.tolist()
    assert float(losses.minimax().generator(FAKE, None)) == pytest.approx(
        mean([math.log(1 - sigmoid(x)) for x in fakes]), rel=1e-5
    )
    assert float(losses.nonsaturating().generator(FAKE, None)) == pytest.approx(
        mean([-math.log(sigmoid(x)) for x in fakes]), rel=1e-5
    )


def test_least_squares():
    loss = losses.least_squares(a=-1, b=1, c=0)
    expected = 0.5 * mean([(x - 1) ** 2 for x in REAL.tolist()]) + 0.5 * mean([(x + 1) ** 2 for x in FAKE.tolist()])
    assert float(loss.discriminator(REAL, FAKE)) == pytest.approx(expected, rel=1e-5)
    assert float(loss.generator(FAKE, None)) == pytest.approx(0.5 * mean([x**2 for x in FAKE.tolist()]), rel=1e-5)
    assert loss.boundary == 0
    assert losses.least_squares(a=0, b=1, c=1).boundary == 0.5


def test_hinge_wasserstein_and_relativistic():
    pairs = list(zip(REAL.tolist(), FAKE.tolist(), strict=True))
    margins = mean([max(0, 1 - r) for r, _ in pairs]) + mean([max(0, 1 + f) for _, f in pairs])
    assert float(losses.hinge().discriminator(REAL, FAKE)) == pytest.approx(margins, rel=1e-5)
    gap = mean([f - r for r, f in pairs])
    assert float(losses.wasserstein().discriminator(REAL, FAKE)) == pytest.approx(gap, rel=1e-5)
    for loss in (losses.hinge(), losses.wasserstein()):
        assert float(loss.generator(FAKE, None)) == pytest.approx(-mean(FAKE.tolist()), rel=1e-5)
    told = mean([-math.log(sigmoid(r - f)) for r, f in pairs])
    assert float(losses.relativistic().discriminator(REAL, FAKE)) == pytest.approx(told, rel=1e-5)
    fooled = mean([-math.log(sigmoid(f - r)) for r, f in pairs])
    assert float(losses.relativistic().generator(FAKE, REAL)) == pytest.approx(fooled, rel=1e-5)
    assert losses.wasserstein().boundary is None and losses.relativistic().boundary is None


ALL = [losses.minimax(), losses.nonsaturating(), losses.least_squares(0, 1, 1), losses.hinge(), losses.wasserstein()]


@pytest.mark.parametrize("loss", [*ALL, losses.relativistic()])
def test_directions(loss):
    """D wants reals up and fakes down, G wants fakes up; huge logits stay finite."""
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    loss.discriminator(real, fake).backward()
    assert (real.grad < 0).all() and (fake.grad >= 0).all()
    fake.grad = None
    loss.generator(fake, real.detach()).backward()
    assert (fake.grad < 0).all()
    huge = torch.tensor([1e4, -1e4])
    assert math.isfinite(loss.discriminator(huge, -huge)) and math.isfinite(loss.generator(huge, -huge))
