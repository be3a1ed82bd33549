"""Penalties against closed forms."""

import math

import pytest
import torch

from ganduel import randomness, regularizers
from ganduel.augment import Chain
from ganduel.game import AugmentedDiscriminator, Duel


def duel(discriminator, real: torch.Tensor, fake: torch.Tensor) -> Duel:
    seed = randomness.seeds(0, first=0, count=len(real))
    return Duel("", discriminator, real=real, source=fake, generator=lambda latent, *_: latent, seed=seed)


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 3, 4, 4, generator=generator), torch.randn(5, 3, 4, 4, generator=generator)


def quadratic(scale: torch.Tensor):
    """D(x) = scale |x|^2, whose gradient is 2 scale x."""
    return lambda x: scale * x.square().sum((1, 2, 3))


@pytest.mark.parametrize("penalty", [regularizers.r1, regularizers.r2])
def test_of_a_linear_discriminator_it_is_the_squared_weight_norm(penalty, images):
    weight = torch.randn(3 * 4 * 4)
    linear = duel(lambda x: x.flatten(1) @ weight, *images)
    assert penalty(linear).item() == pytest.approx(weight.square().sum().item(), rel=1e-5)


@pytest.mark.parametrize(("penalty", "which"), [(regularizers.r1, 0), (regularizers.r2, 1)])
def test_of_a_quadratic_discriminator(penalty, which, images):
    """One value an image, averaged; its own gradient is right too."""
    scale = torch.tensor(1.5, requires_grad=True)
    value = penalty(duel(quadratic(scale), *images))
    squares = 4 * images[which].square().sum((1, 2, 3)).mean().item()
    assert value.item() == pytest.approx(1.5**2 * squares, rel=1e-5)
    value.backward()
    assert scale.grad.item() == pytest.approx(2 * 1.5 * squares, rel=1e-5)


@pytest.mark.parametrize(
    ("norm", "one_sided", "expected"), [(3.0, False, 4.0), (3.0, True, 4.0), (0.25, False, 0.5625)]
)
def test_gradient_penalty_of_a_linear_discriminator(norm, one_sided, expected, images):
    weight = torch.full((48,), norm / 48**0.5)
    value = regularizers.GradientPenalty(1.0, one_sided)(duel(lambda x: x.flatten(1) @ weight, *images))
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_one_sided_lets_small_gradients_be(images):
    weight = torch.full((48,), 0.25 / 48**0.5)
    assert regularizers.GradientPenalty(1.0, True)(duel(lambda x: x.flatten(1) @ weight, *images)).item() == 0


def test_gradient_penalty_looks_between_real_and_fake(images):
    seen = []

    def discriminator(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.square().sum((1, 2, 3))

    real, fake = images
    value = regularizers.GradientPenalty(1.0, False)(duel(discriminator, real, fake))
    shares = ((seen[0] - real) / (fake - real)).flatten(1)
    assert torch.allclose(shares, shares[:, :1].expand_as(shares), atol=1e-3)  # one share an image
    assert shares.min() > 0 and shares.max() < 1 and shares[:, 0].std() > 0.1
    expected = (2 * seen[0].flatten(1).norm(dim=1) - 1).square().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_penalty_is_finite_where_the_gradient_is_zero(images):
    scale = torch.tensor(0.0, requires_grad=True)
    value = regularizers.GradientPenalty(1.0, False)(duel(quadratic(scale), *images))
    value.backward()
    assert value.item() == pytest.approx(1.0) and torch.isfinite(scale.grad)


def test_an_interval_below_one_is_refused():
    with pytest.raises(ValueError, match="every=0"):
        regularizers.Regularizer(regularizers.r1, "D", 1.0, 0)
    regularizers.Regularizer(regularizers.r1, "D", 1.0, 1)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"weight=-0\.5 must be 0 or more"):
        regularizers.Regularizer(regularizers.r1, "D", -0.5, 1)
    regularizers.Regularizer(regularizers.r1, "D", 0.0, 1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (regularizers.GradientPenalty, {"target": 0.0, "one_sided": False}),
        (regularizers.DRAGAN, {"target": 0.0, "spread": 0.0}),
        (regularizers.Consistency, {"fake": 0.0, "mirror": True, "shift": 0.0}),
    ],
)
def test_settings_below_zero_are_refused(kind, settings):
    kind(**settings)
    for name in settings.keys() - {"one_sided", "mirror"}:
        with pytest.raises(ValueError, match=rf"{name}=-0\.1 must be 0 or more"):
            kind(**settings | {name: -0.1})


def test_which_penalties_contain_gradients():
    fns = {
        regularizers.r1: True,
        regularizers.GradientPenalty(1.0, False): True,
        regularizers.PathLength(decay=0.01, share=0.5): True,
        regularizers.Consistency(1.0, True, 0.125): False,
        regularizers.LeCam(decay=0.99): False,
    }
    assert {fn: regularizers.Regularizer(fn, "D", 1.0, 1).of_gradients for fn in fns} == fns


def test_dragan_of_a_linear_discriminator(images):
    weight = torch.full((48,), 3 / 48**0.5)
    value = regularizers.DRAGAN(1.0, 0.5)(duel(lambda x: x.flatten(1) @ weight, *images))
    assert value.item() == pytest.approx(4.0, rel=1e-5)


def test_dragan_looks_around_real_images(images):
    """Normal noise, wider for images of more contrast; of a quadratic discriminator the value is known there."""
    seen = []

    def discriminator(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.square().sum((1, 2, 3))

    real = torch.randn(8, 3, 32, 32) * torch.arange(8).view(8, 1, 1, 1)  # the first is blank
    value = regularizers.DRAGAN(1.0, 0.5)(duel(discriminator, real, real))
    noise = (seen[0] - real).flatten(1)
    assert torch.allclose(noise.std(1), 0.5 * real.flatten(1).std(1), rtol=0.1)
    assert (noise[1:].mean(1).abs() < 0.1 * noise[1:].std(1)).all()
    assert torch.corrcoef(noise[1:]).fill_diagonal_(0).abs().max() < 0.1  # each image its own
    expected = (2 * seen[0].flatten(1).norm(dim=1) - 1).square().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_dragan_is_finite_where_the_gradient_is_zero(images):
    scale = torch.tensor(0.0, requires_grad=True)
    value = regularizers.DRAGAN(1.0, 0.5)(duel(quadratic(scale), *images))
    value.backward()
    assert value.item() == pytest.approx(1.0) and torch.isfinite(scale.grad)


@pytest.mark.parametrize(
    "penalty",
    [
        regularizers.r1,
        regularizers.r2,
        regularizers.GradientPenalty(1.0, False),
        regularizers.DRAGAN(1.0, 0.5),
    ],
    ids=("r1", "r2", "gradient_penalty", "dragan"),
)
def test_penalties_are_means_over_images(penalty, images):
    """So the mean over micro batches is that over the batch."""
    discriminator = quadratic(torch.tensor(0.3))
    whole = duel(discriminator, *images)
    real, fake = images
    apart = [
        penalty(Duel("", discriminator, real[i : i + 1], fake[i : i + 1], lambda x, *_: x, whole.seed[i : i + 1]))
        for i in range(5)
    ]
    assert penalty(whole).item() == pytest.approx(torch.stack(apart).mean().item(), rel=1e-5)
    assert torch.stack(apart).std() > 0


def judged(network, real: torch.Tensor, fake: torch.Tensor) -> Duel:
    """With the logits that D's loss takes."""
    seed = randomness.seeds(0, first=0, count=len(real))
    return duel(AugmentedDiscriminator(network, Chain(), seed), real, fake)


def test_lecam_pulls_each_kind_to_the_average_of_the_other():
    """Logits are the images themselves. After a step the averages are 0.25 of the means, which were 2 and -1."""
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -1.0])
    lecam = regularizers.LeCam(decay=0.75)
    value, means = lecam(judged(lambda x: x, real, fake))
    assert value.item() == pytest.approx((1 + 9) / 2 + 1)  # both averages are 0 at first
    assert {name: x.item() for name, x in means.items()} == {"real": 2, "fake": -1}
    lecam.adapt(means)
    assert {name: x.item() for name, x in lecam.state_dict().items()} == {"real": 0.5, "fake": -0.25}
    value, _ = lecam(judged(lambda x: x, real, fake))
    assert value.item() == pytest.approx((1.25**2 + 3.25**2) / 2 + 1.5**2)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_lecam_refuses_averages_that_never_move(decay):
    with pytest.raises(ValueError, match="must be 0 or more, and below 1"):
        regularizers.LeCam(decay)


def test_consistency_of_mirrored_images():
    """D looks at pixel 5 of a ramp of 16. So the logit of a mirrored image changes by 5, for fakes by 2.5, that of
    another does not change, and about half are mirrored."""
    ramp = torch.arange(16.0).expand(64, 1, 16, 16)
    one = judged(lambda x: x[..., 5].mean((1, 2)), ramp, ramp / 2)
    of_real, half, both = (regularizers.Consistency(share, mirror=True, shift=0.0)(one).item() for share in (0, 0.5, 1))
    for squares, change in ((of_real, 5), (both - of_real, 2.5)):  # 10 - 5, and half of it
        mirrored = 64 * squares / change**2
        assert 20 < mirrored < 44 and mirrored == pytest.approx(round(mirrored), abs=0.01)
    assert half == pytest.approx((of_real + both) / 2)


def test_shifts_go_both_ways_up_to_their_share_of_the_size():
    """Pixels that hold their own place tell how far they have come: up to a quarter of 16 columns and of 32 rows."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(16.0), indexing="ij")
    seeds = randomness.seeds("shifts", first=0, count=600)
    moved = regularizers.mirrored_or_shifted(
        torch.stack([x, y]).expand(600, -1, -1, -1), seeds, mirror=False, shift=0.25
    )
    for of, most, centre in ((0, 4, 8), (1, 8, 16)):
        assert set((moved[:, of, 16, 8] - centre).tolist()) == {float(s) for s in range(-most, most + 1)}


def test_consistency_of_shifted_images():
    """D looks at the middle of a ramp, so the logit of an image that moves by s pixels changes by s: up to 2 here."""
    ramp = torch.arange(16.0).expand(64, 1, 16, 16)
    one = judged(lambda x: x[..., 7:9].mean((1, 2, 3)), ramp, ramp)
    squares = regularizers.Consistency(0.0, mirror=False, shift=0.125)(one).item()
    assert squares == pytest.approx(1.5, abs=0.6)  # s is 0, -1 and 1 with probability 1/4 each, -2 and 2 with 1/8
    assert 64 * squares == pytest.approx(round(64 * squares), abs=0.01)


def test_real_and_generated_images_are_changed_apart():
    """Of equal images, D sees other copies as generated ones than as real ones. The first column tells the mirrored."""
    seen = []

    def discriminator(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.mean((1, 2, 3))

    ramp = torch.arange(16.0).expand(64, 1, 16, 16)
    regularizers.Consistency(1.0, mirror=True, shift=0.0)(judged(discriminator, ramp, ramp))
    of_real, of_fake = ((x[:, 0, 0, 0] == 15) for x in seen[-2:])  # which are mirrored
    assert 20 < int((of_real != of_fake).sum()) < 44


@pytest.mark.parametrize("training", [True, False])
def test_batch_normalisation_stands_still_while_path_lengths_are_taken(training):
    """In training, it normalises by the batch and keeps its running mean; in evaluation, by the running mean itself."""
    layer = torch.nn.BatchNorm1d(1, affine=False).train(training)
    with regularizers.still(layer):
        found = layer(torch.tensor([[1.0], [3.0]]))
    assert found.flatten().tolist() == pytest.approx([-1, 1] if training else [1, 3], abs=1e-4)
    assert layer.running_mean.tolist() == [0] and layer.track_running_stats


def test_clip():
    parameters = [torch.tensor([-1.0, 0.005, 1.0]), torch.tensor([[0.02]])]
    regularizers.clip(0.01)(parameters)
    assert torch.equal(parameters[0], torch.tensor([-0.01, 0.005, 0.01]))
    assert torch.equal(parameters[1], torch.tensor([[0.01]]))
    with pytest.raises(ValueError, match=r"limit=-0\.01 must be more than 0"):
        regularizers.clip(-0.01)


@pytest.mark.parametrize(
    "settings", [{"decay": 0, "share": 1}, {"decay": 1.5, "share": 1}, {"decay": -0.5, "share": 1}]
)
def test_how_much_of_the_average_a_step_may_replace(settings):
    with pytest.raises(ValueError, match=r"decay=.* and share=.* must be above 0, and at most 1"):
        regularizers.PathLength(**settings)
    with pytest.raises(ValueError, match=r"decay=.* and share=.* must be above 0, and at most 1"):
        regularizers.PathLength(decay=settings["share"], share=settings["decay"])
    regularizers.PathLength(decay=1, share=1)


@pytest.mark.parametrize("count", [1, 3])
def test_path_lengths_of_one_style_and_of_a_style_for_each_layer(count):
    """Of pixel i = a_i w_i, the length is |a y|; of layers with factors 3 and 4, the root of the mean of 9 and 16."""
    points, noise = torch.randn(count, 8), torch.randn(count, 2, 2, 2)
    factors = torch.arange(1.0, 9)
    expected = (factors * noise.flatten(1)).norm(dim=1)
    found = regularizers.path_lengths(lambda w: (factors * w).reshape(count, 2, 2, 2), points, noise)
    assert torch.allclose(found, expected)
    layers = torch.tensor([3.0, 4.0])[:, None]
    found = regularizers.path_lengths(
        lambda w: (factors * layers * w).sum(1).reshape(count, 2, 2, 2), points[:, None].expand(-1, 2, -1), noise
    )
    assert torch.allclose(found, expected * math.sqrt(12.5))
    seeds = torch.arange(count)
    drawn = randomness.normal(seeds, (2, 2, 2), "path length") / 2
    found = regularizers.path_lengths(lambda w: (factors * w).reshape(count, 2, 2, 2), points, seeds)
    assert torch.allclose(found, (factors * drawn.flatten(1)).norm(dim=1))
