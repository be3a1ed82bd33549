"""Losses against their equations."""

import math

import pytest
import torch

from ganduel import losses, randomness
from ganduel.losses import Labels

PLAIN = {"smooth_real": 0.0, "smooth_fake": 0.0, "flip": 0.0, "noise": 0.0}
EXACT = {"flip": 0.0, "noise": 0.0}
HALVES = {"discriminator": 0.5, "generator": 0.5}
MINIMAX, NONSATURATING = losses.minimax(**PLAIN), losses.nonsaturating(**PLAIN)
REAL, FAKE = torch.tensor([0.3, -1.2]), torch.tensor([2.0, -0.5])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("loss", [MINIMAX, NONSATURATING])
def test_cross_entropy_of_the_discriminator(loss):
    expected = mean([-math.log(sigmoid(x)) for x in REAL.tolist()]) + mean(
        [-math.log(1 - sigmoid(x)) for x in FAKE.tolist()]
    )
    assert float(loss.discriminator(REAL, FAKE, None)) == pytest.approx(expected, rel=1e-5)


def test_generators():
    fakes = FAKE.tolist()
    assert float(MINIMAX.generator(FAKE, None)) == pytest.approx(
        mean([math.log(1 - sigmoid(x)) for x in fakes]), rel=1e-5
    )
    assert float(NONSATURATING.generator(FAKE, None)) == pytest.approx(
        mean([-math.log(sigmoid(x)) for x in fakes]), rel=1e-5
    )


def test_least_squares():
    loss = losses.least_squares(a=-1, b=1, c=0, **EXACT, **HALVES)
    expected = 0.5 * mean([(x - 1) ** 2 for x in REAL.tolist()]) + 0.5 * mean([(x + 1) ** 2 for x in FAKE.tolist()])
    assert float(loss.discriminator(REAL, FAKE, None)) == pytest.approx(expected, rel=1e-5)
    assert float(loss.generator(FAKE, None)) == pytest.approx(0.5 * mean([x**2 for x in FAKE.tolist()]), rel=1e-5)
    assert loss.boundary == 0
    assert losses.least_squares(a=0, b=1, c=1, **EXACT, **HALVES).boundary == 0.5
    heavy = losses.least_squares(a=-1, b=1, c=0, **EXACT, **HALVES | {"discriminator": 5.0, "generator": 1.0})
    assert float(heavy.discriminator(REAL, FAKE, None)) == pytest.approx(10 * expected, rel=1e-5)
    assert float(heavy.generator(FAKE, None)) == pytest.approx(2 * float(loss.generator(FAKE, None)), rel=1e-5)
    for factor in ("discriminator", "generator"):
        for value in (0, -0.5):
            with pytest.raises(ValueError, match=f"{factor}={value}"):
                losses.least_squares(a=-1, b=1, c=0, **EXACT, **HALVES | {factor: value})


def test_hinge_wasserstein_and_relativistic():
    pairs = list(zip(REAL.tolist(), FAKE.tolist(), strict=True))
    margins = mean([max(0, 1 - r) for r, _ in pairs]) + mean([max(0, 1 + f) for _, f in pairs])
    assert float(losses.hinge().discriminator(REAL, FAKE, None)) == pytest.approx(margins, rel=1e-5)
    gap = mean([f - r for r, f in pairs])
    assert float(losses.wasserstein().discriminator(REAL, FAKE, None)) == pytest.approx(gap, rel=1e-5)
    for loss in (losses.hinge(), losses.wasserstein()):
        assert float(loss.generator(FAKE, None)) == pytest.approx(-mean(FAKE.tolist()), rel=1e-5)
    told = mean([-math.log(sigmoid(r - f)) for r, f in pairs])
    assert float(losses.relativistic().discriminator(REAL, FAKE, None)) == pytest.approx(told, rel=1e-5)
    fooled = mean([-math.log(sigmoid(f - r)) for r, f in pairs])
    assert float(losses.relativistic().generator(FAKE, REAL)) == pytest.approx(fooled, rel=1e-5)
    assert losses.wasserstein().boundary is None and losses.relativistic().boundary is None


ALL = [MINIMAX, NONSATURATING, losses.least_squares(0, 1, 1, **EXACT, **HALVES), losses.hinge(), losses.wasserstein()]


@pytest.mark.parametrize("loss", [*ALL, losses.relativistic()])
def test_directions(loss):
    """D wants reals up and fakes down, G wants fakes up; huge logits stay finite."""
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    loss.discriminator(real, fake, None).backward()
    assert (real.grad < 0).all() and (fake.grad >= 0).all()
    fake.grad = None
    loss.generator(fake, real.detach()).backward()
    assert (fake.grad < 0).all()
    huge = torch.tensor([1e4, -1e4])
    assert math.isfinite(loss.discriminator(huge, -huge, None)) and math.isfinite(loss.generator(huge, -huge))


def entropy(label: float, x: float) -> float:
    return -label * math.log(sigmoid(x)) - (1 - label) * math.log(1 - sigmoid(x))


@pytest.mark.parametrize("make", [losses.minimax, losses.nonsaturating])
@pytest.mark.parametrize(("real", "fake"), [(0.1, 0.0), (0.1, 0.2)])
def test_smoothed_labels(make, real, fake):
    """One-sided and two-sided; with and without seeds, as nothing is random."""
    loss = make(**PLAIN | {"smooth_real": real, "smooth_fake": fake})
    expected = mean([entropy(1 - real, x) for x in REAL.tolist()]) + mean([entropy(fake, x) for x in FAKE.tolist()])
    assert float(loss.discriminator(REAL, FAKE, None)) == pytest.approx(expected, rel=1e-5)
    assert float(loss.discriminator(REAL, FAKE, torch.arange(2))) == pytest.approx(expected, rel=1e-5)
    plain = make(**PLAIN)
    assert loss.generator(FAKE, None) == plain.generator(FAKE, None)  # labels are D's


def test_least_confident_is_best_for_a_smoothed_label():
    """The loss of a real image is least where sigma(D) is the label itself."""
    loss = losses.nonsaturating(**PLAIN | {"smooth_real": 0.1})
    best = torch.tensor([math.log(9)], requires_grad=True)
    loss.discriminator(best, torch.tensor([0.0]), None).backward()
    assert best.grad.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda **labels: losses.minimax(**PLAIN | labels),
        lambda **labels: losses.nonsaturating(**PLAIN | labels),
        lambda **labels: losses.least_squares(a=-1, b=1, c=0, **HALVES, **EXACT | labels),
    ],
)
def test_flipped_labels(make):
    """Always, each side gets the label of the other; never without seeds, as in validation."""
    plain, flipped = make(), make(flip=1.0)
    seed = torch.arange(2)
    assert float(flipped.discriminator(REAL, FAKE, seed)) == pytest.approx(float(plain.discriminator(FAKE, REAL, None)))
    assert float(flipped.discriminator(REAL, FAKE, None)) == float(plain.discriminator(REAL, FAKE, None))


def test_labels_are_drawn_image_by_image():
    seed = randomness.seeds(0, first=0, count=20_000)
    logits = torch.zeros(20_000)
    real, fake = Labels(1.0, 0.0, flip=0.1, noise=0.0).draw(logits, seed)
    assert set(real.tolist()) == set(fake.tolist()) == {0.0, 1.0}
    assert real.mean().item() == pytest.approx(0.9, abs=0.01) and fake.mean().item() == pytest.approx(0.1, abs=0.01)
    assert ((real == 0) & (fake == 1)).float().mean().item() == pytest.approx(0.01, abs=0.004)  # independently
    real, fake = Labels(1.0, 0.0, flip=0.0, noise=0.2).draw(logits, seed)
    for labels, centre in ((real, 1), (fake, 0)):
        assert labels.mean().item() == pytest.approx(centre, abs=0.01)
        assert labels.std().item() == pytest.approx(0.2, abs=0.01)
    assert torch.equal(
        Labels(1.0, 0.0, 0.1, 0.2).draw(logits[7:9], seed[7:9])[0],
        Labels(1.0, 0.0, 0.1, 0.2).draw(logits, seed)[0][7:9],
    )


def test_an_image_flips_below_its_number_and_its_noise_is_added():
    """Both are hashed from its seed; the names of the streams belong to every run that was ever made."""
    seed = torch.arange(3)
    for kind, index, label, other in (("real", 0, 0.9, 0.2), ("fake", 1, 0.2, 0.9)):
        number = randomness.uniform(seed, (), f"flip of {kind} labels")
        flip = sorted(number.tolist())[1]  # flips the one of three whose number is smaller
        expected = torch.where(number < flip, other, label)
        assert torch.equal(Labels(0.9, 0.2, flip, 0.0).draw(number, seed)[index], expected)
        assert expected.unique(return_counts=True)[1].sort().values.tolist() == [1, 2]
        noise = 0.3 * randomness.normal(seed, (), f"noise on {kind} labels")
        assert torch.allclose(Labels(0.9, 0.2, 0.0, 0.3).draw(number, seed)[index], label + noise)
        assert torch.allclose(Labels(0.9, 0.2, flip, flip).draw(number, seed)[index], expected + noise / 0.3 * flip)


def test_undisturbed_labels_draw_no_number(monkeypatch):
    """They are one number for all images."""
    monkeypatch.delattr(randomness, "_bits")
    for seed in (None, torch.arange(4)):
        labels = Labels(0.9, 0.1, flip=0.0, noise=0.0).draw(torch.zeros(4, 1, 2, 2), seed)
        assert [label.tolist() for label in labels] == [[[[pytest.approx(0.9)]]], [[[pytest.approx(0.1)]]]]


def test_patches_of_an_image_share_its_label():
    seed = torch.arange(6)
    patches = torch.randn(6, 1, 3, 3)
    real, fake = Labels(1.0, 0.0, flip=0.5, noise=0.1).draw(patches, seed)
    assert real.shape == fake.shape == (6, 1, 1, 1)
    loss = losses.least_squares(a=0, b=1, c=1, flip=0.5, noise=0.1, **HALVES)
    expected = 0.5 * (patches - real).square().mean() + 0.5 * (patches - fake).square().mean()
    assert torch.isclose(loss.discriminator(patches, patches, seed), expected)


def test_a_noisy_probability_stays_one():
    """However strong the noise, no image's cross-entropy falls for ever, as it would beyond [0, 1]."""
    loss = losses.nonsaturating(**PLAIN | {"noise": 10.0})
    for seed in torch.arange(20).split(1):
        for sure in (torch.tensor([1e3]), torch.tensor([-1e3])):
            assert loss.discriminator(sure, sure, seed) >= 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"smooth_real": -0.1}, "smooth_real=-0.1"),
        ({"smooth_real": 0.6, "smooth_fake": 0.4}, "together less than 1"),
        ({"smooth_real": 0.6, "smooth_fake": 0.5}, "together less than 1"),
        ({"flip": 1.5}, "flip=1.5 must be 0 to 1"),
        ({"flip": -0.5}, "flip=-0.5 must be 0 to 1"),
        ({"noise": -1.0}, "noise=-1.0 0 or more"),
    ],
)
def test_labels_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        losses.minimax(**PLAIN | wrong)


def test_where_d_is_undecided():
    """And only a relativistic G is shown the logits of real images."""
    assert [loss.boundary for loss in (*ALL, losses.relativistic())] == [0, 0, 0.5, 0, None, None]
    assert [loss.relativistic for loss in (*ALL, losses.relativistic())] == [False] * 5 + [True]


def test_which_have_a_sigmoid_of_their_own():
    assert MINIMAX.logits and NONSATURATING.logits and losses.relativistic().logits
    assert not any(
        loss.logits for loss in (losses.hinge(), losses.wasserstein(), losses.least_squares(0, 1, 1, **HALVES, **EXACT))
    )
