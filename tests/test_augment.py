"""What stands before the discriminators: closed forms, and what every transform must keep to."""

import math

import pytest
import torch
from conftest import (
    NO_BATCH_NORM,
    THOROUGH,
    assert_penalty_has_the_right_derivative,
    largest_difference,
    state,
)

from ganduel import build, randomness
from ganduel.augment import Chain
from ganduel.augment.affine import Affine, interpolate, mirrored
from ganduel.augment.diffaugment import DiffAugment
from ganduel.augment.noise import InstanceNoise
from ganduel.config.compose import compose
from ganduel.setup import assemble

ALL = ("instance_noise", "affine", "diffaugment")

OFF = {"brightness": 0.0, "saturation": 0.0, "contrast": 0.0, "translation": 0.0, "cutout": 0.0}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def chain(*names: str) -> Chain:
    composed = compose("train", [f"augment=[{','.join(names)}]"])
    return Chain(*build.parts(composed.augment, "augment", []).values())


def seeds(count: int, start: int = 0) -> torch.Tensor:
    return randomness.seeds("test", first=start, count=count)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch):
    """Make every random share the same: `drawn(0.5)` is the middle of all ranges."""

    def fix(share: float) -> None:
        monkeypatch.setattr(
            randomness, "uniform", lambda seed, shape, stream: torch.full((len(seed), *shape), float(share))
        )

    return fix


# All transforms


@pytest.mark.parametrize("names", [(name,) for name in ALL] + [ALL], ids="+".join)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_changed_one_by_one(names, channels):
    """Each by its own seed alone, in any batch, with a shape and a range of its own."""
    transform, images = chain(*names), torch.rand(6, channels, 12, 12) * 2 - 1
    whole = transform(images, seeds(6))
    assert whole.shape == images.shape and whole.dtype == torch.float32 and torch.isfinite(whole).all()
    parts = torch.cat([transform(images[:2], seeds(2)), transform(images[2:], seeds(4, start=2))])
    assert torch.equal(whole, parts)
    assert torch.equal(whole, transform(images, seeds(6)))
    assert not torch.allclose(whole, images)
    same = transform(images[:1].expand(6, -1, -1, -1), seeds(6))
    assert all(not torch.allclose(same[0], other) for other in same[1:])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_penalties_go_through_it(name, channels):
    """Differentiable twice: the derivative of R1 of a discriminator behind the transform is right."""
    weight = torch.randn(channels * 64, dtype=torch.float64, requires_grad=True)
    transform = chain(name)
    assert_penalty_has_the_right_derivative(
        lambda x: (transform(x, seeds(3)).flatten(1) - 0.3) ** 3 @ weight,
        torch.randn(3, channels, 8, 8, dtype=torch.float64),
        weight,
    )


@pytest.mark.parametrize("name", ALL)
def test_gradients_of_images_are_right(name):
    """Both derivatives along random directions; `GANDUEL_EXAMPLES=all` compares them entry by entry."""
    transform, images = chain(name), torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    fast = {"fast_mode": not THOROUGH}
    assert torch.autograd.gradcheck(lambda x: transform(x, seeds(2)), images, **fast)
    assert torch.autograd.gradgradcheck(lambda x: transform(x, seeds(2)) ** 2, images, **fast)


def test_they_are_applied_in_the_order_selected():
    for names in (ALL, ALL[::-1]):
        kinds = [type(t) for t in chain(*names).transforms]
        assert kinds == [
            {"instance_noise": InstanceNoise, "affine": Affine, "diffaugment": DiffAugment}[n] for n in names
        ]


def test_the_whole_chain_trains_under_a_penalty_in_any_split(compose):
    """Images, losses and gradients are those of the whole batch."""
    ends = []
    for micro in (8, 4):
        overrides = (f"augment=[{','.join(ALL)}]", f"micro_batch={micro}", *NO_BATCH_NORM)
        trainer, _ = assemble(compose(*overrides, model="wgan_gp"), torch.device("cpu"))
        trainer.iterate()
        assert trainer.not_finite() == []
        ends.append(trainer.game.state_dict())
    assert largest_difference(*ends) < 1e-5


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("instance_noise", "std=-1", "std=-1 must be at least 0"),
        ("affine", "rotation=181", "rotation=181 must be from 0 to 180"),
        ("affine", "translation=[0.1]", "two shares"),
        ("affine", "translation=[0.1,1.5]", "two shares from 0 to 1"),
        ("affine", "scale=[0,1]", "two factors above 0"),
        ("affine", "scale=[1.2,0.8]", "smallest, largest"),
        ("diffaugment", "brightness=-0.1", "brightness=-0.1 must be at least 0"),
        ("diffaugment", "saturation=1.1", "saturation=1.1 must be from 0 to 1"),
        ("diffaugment", "contrast=-1", "contrast=-1 must be from 0 to 1"),
        ("diffaugment", "translation=2", "translation=2 must be from 0 to 1"),
        ("diffaugment", "cutout=1.5", "cutout=1.5 must be from 0 to 1"),
        ("diffaugment", "cutout=much", "cutout=much is not allowed; it takes a number"),
    ],
)
def test_ranges(name, changes, words):
    composed = compose("train", [f"augment=[{name}]", f"augment.{name}.{changes}"])
    with pytest.raises(build.UserError, match=f"augment.{name}.*{words}"):
        build.parts(composed.augment, "augment", [])


# Noise


@pytest.mark.parametrize("std", [0.2, 0.1, 0.0])
def test_noise_has_its_deviation(std):
    images = torch.zeros(16, 3, 32, 32)
    added = InstanceNoise(std)(images, seeds(16))
    assert float(added.std()) == pytest.approx(std, rel=0.02) and abs(float(added.mean())) < 0.01


def test_noise_fades(compose):
    overrides = ("augment=[instance_noise]", "+scheduler@schedule.augment.instance_noise.std=linear")
    overrides += ("schedule.augment.instance_noise.std.length=4 steps",)
    trainer, _ = assemble(compose(*overrides), torch.device("cpu"))
    deviations = []
    for _ in range(5):
        trainer.iterate()
        deviations.append(float(trainer.game.augment["D"].transforms[0].std))
    assert deviations == pytest.approx([0.1, 0.075, 0.05, 0.025, 0])
    resumed, _ = assemble(compose(*overrides), torch.device("cpu"))
    resumed.load_state_dict(trainer.state_dict())
    resumed.iterate()
    assert resumed.game.augment["D"].transforms[0].std == 0


# Affine


def still(**changes) -> Affine:
    return Affine(**{"rotation": 0.0, "translation": [0.0, 0.0], "scale": [1.0, 1.0], "edges": "mirror"} | changes)


@pytest.mark.parametrize("shape", [(7, 7), (8, 8), (6, 9)])
def test_affine_that_does_nothing_is_the_identity(shape):
    images = torch.randn(3, 2, *shape)
    assert torch.allclose(still()(images, seeds(3)), images, atol=1e-5)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("degrees", "share", "quarters"), [(90, 1, -1), (90, 0, 1), (180, 1, 2)])
def test_right_angles(drawn, size, degrees, share, quarters):
    drawn(share)  # turned all the way, clockwise at 1
    images = torch.randn(2, 3, size, size)
    turned = still(rotation=float(degrees))(images, seeds(2))
    assert torch.allclose(turned, images.rot90(quarters, (2, 3)), atol=1e-4)


@pytest.mark.parametrize("share", [0, 1])
def test_translation_is_a_shift(drawn, share):
    drawn(share)
    images = torch.randn(2, 3, 8, 16)
    moved = still(translation=[0.125, 0.5])(images, seeds(2))  # 2 across, 4 down, or the other way
    shifted = images.roll((4, 2) if share else (-4, -2), (2, 3))
    inside = (slice(None), slice(None), slice(4, None), slice(2, None))
    if not share:
        inside = (slice(None), slice(None), slice(None, -4), slice(None, -2))
    assert torch.allclose(moved[inside], shifted[inside], atol=1e-5)
    mirrored = images[:, :, 1:5].flip(2) if share else images[:, :, -5:-1].flip(2)
    columns = (slice(2, None), slice(None, -2)) if share else (slice(None, -2), slice(2, None))
    edge = moved[:, :, :4] if share else moved[:, :, -4:]
    assert torch.allclose(edge[..., columns[0]], mirrored[..., columns[1]], atol=1e-5)


def test_scale_enlarges_about_the_centre(drawn):
    drawn(1)
    images = torch.randn(1, 1, 9, 9)
    larger = still(scale=[1.0, 2.0])(images, seeds(1))
    assert torch.allclose(larger[..., ::2, ::2], images[..., 2:7, 2:7], atol=1e-5)
    between = (images[..., 2:6, 2:7] + images[..., 3:7, 2:7]) / 2
    assert torch.allclose(larger[..., 1::2, ::2], between, atol=1e-5)


def test_affine_draws_all_of_its_ranges():
    """A linear ramp shows where a pixel came from, and so the angle, the factor and the shift."""
    size = 33
    ramp = torch.arange(size) - (size - 1) / 2
    images = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size)])[None].expand(500, -1, -1, -1)
    out = Affine(30.0, [0.1, 0.3], [0.8, 1.2], "mirror")(images, seeds(500))
    slope_x = (out[..., 16, 17] - out[..., 16, 15]) / 2  # (N, 2): the source's x and y, a pixel to the right
    angle = torch.atan2(-slope_x[:, 1], slope_x[:, 0]).rad2deg()
    factor = 1 / slope_x.norm(dim=1)
    for values, low, high in ((angle, -30, 30), (factor, 0.8, 1.2)):
        assert low - 0.1 < float(values.min()) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < float(values.max()) < high + 0.1
    shift = out[..., 16, 16] * factor[:, None]  # its length is that of the translation
    assert float(shift.norm(dim=1).max()) == pytest.approx(math.hypot(0.1, 0.3) * size, rel=0.1)


def test_interpolation_is_bilinear_and_mirrors():
    images = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    x = torch.tensor(
        [[[0.5, -1.0], [1.25, 0.1]]]
    )  # between all four; one left of the left edge, which is the right one
    y = torch.tensor([[[0.5, 0.0], [2.0, 1.0]]])  # a quarter right of the right edge and one below; within the last row
    mirror = interpolate(images, mirrored(x, 1), mirrored(y, 1))
    assert torch.allclose(mirror, torch.tensor([[[[1.5, 1.0], [0.75, 2.1]]]]))
    # One left of the edge nothing is left; a quarter right of the edge, three quarters of 3.
    alone = interpolate(images, x, torch.tensor([[[0.5, 0.0], [1.0, 1.0]]]))
    assert torch.allclose(alone, torch.tensor([[[[1.5, 0.0], [2.25, 2.1]]]]))


def test_edges_may_be_black(drawn):
    drawn(1)
    images = torch.rand(2, 3, 8, 16)
    moved = still(translation=[0.125, 0.5], edges="black")(images, seeds(2))  # 2 across, 4 down
    assert torch.allclose(moved[:, :, 4:, 2:], images[:, :, :4, :-2], atol=1e-5)
    assert torch.allclose(moved[:, :, :4], torch.tensor(-1.0)) and torch.allclose(moved[..., :2], torch.tensor(-1.0))
    assert torch.allclose(still(edges="black")(images, seeds(2)), images, atol=1e-6)


# DiffAugment


def test_brightness_is_added(drawn):
    images = torch.randn(2, 3, 4, 4)
    for share, sign in ((1, 1), (0, -1)):
        drawn(share)
        brighter = DiffAugment(**OFF | {"brightness": 0.5})(images, seeds(2))
        assert torch.allclose(brighter, images + sign * 0.5, atol=1e-6)


def test_saturation_goes_from_grey_to_double(drawn):
    images, grey = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4)
    mean = images.mean(dim=1, keepdim=True)
    for share, expected in ((0, mean.expand_as(images)), (0.5, images), (1, 2 * images - mean)):
        drawn(share)
        transform = DiffAugment(**OFF | {"saturation": 1.0})
        assert torch.allclose(transform(images, seeds(2)), expected, atol=1e-6)
        assert torch.allclose(transform(grey, seeds(2)), grey, atol=1e-6)


def test_contrast_keeps_the_mean(drawn):
    images = torch.randn(2, 3, 4, 4)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    for share, factor in ((0, 0.5), (1, 1.5)):
        drawn(share)
        result = DiffAugment(**OFF | {"contrast": 0.5})(images, seeds(2))
        assert torch.allclose(result, mean + factor * (images - mean), atol=1e-6)


def test_translation_moves_whole_pixels_and_fills_with_grey():
    size, most = 16, 2  # an eighth
    images = torch.rand(1, 2, size, size).expand(400, -1, -1, -1) + 1
    moved = DiffAugment(**OFF | {"translation": 0.125})(images, seeds(400))
    padded = torch.nn.functional.pad(images[0], [most] * 4)
    found = []
    for one in moved:
        places = [
            (down, across)
            for down in range(2 * most + 1)
            for across in range(2 * most + 1)
            if torch.equal(one, padded[:, down : down + size, across : across + size])
        ]
        assert len(places) == 1
        found += places
    counts = [found.count((down, across)) for down in range(5) for across in range(5)]
    assert min(counts) > 4 and max(counts) < 40  # 16 are expected of each


def test_translation_at_the_ends_of_the_draw(drawn):
    images = torch.rand(1, 1, 8, 8)
    for share in (0.0, 1.0):  # a draw may round to 1
        drawn(share)
        assert DiffAugment(**OFF | {"translation": 0.25})(images, seeds(1)).shape == images.shape


def test_cutout_covers_a_square():
    images = torch.ones(200, 3, 16, 16)
    cut = DiffAugment(**OFF | {"cutout": 0.5})(images, seeds(200))
    covered = (cut == 0).all(dim=1)
    assert torch.equal(cut, (~covered)[:, None].expand_as(cut).float())
    rows, columns = covered.any(2), covered.any(1)
    assert torch.equal(covered, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(1).max() == 8 and rows.sum(1).min() >= 4  # half, less what lies outside
    assert (covered.float().mean(0) > 0).all()  # anywhere


def test_all_off_is_the_identity():
    images = torch.randn(2, 3, 8, 8)
    assert DiffAugment(**OFF)(images, seeds(2)) is images


@pytest.mark.slow
def test_training_images_themselves_are_augmented(train, compose, capsys, monkeypatch):
    """data.augment=[...] takes the options of augment=[...]; D is left alone."""
    fades = "+scheduler@schedule.data.augment.instance_noise.std=linear"
    fading = (fades, "schedule.data.augment.instance_noise.std.length=0.016 kimg")
    assert train("data.augment=[affine,instance_noise]", *fading) == 0
    saved = state("runs/tiny")["config"]
    assert list(saved["data"]["augment"]) == ["affine", "instance_noise"] and saved["augment"] == {}
    composed = compose("augment@data.augment=[affine,instance_noise]", *fading)
    one, plain = (assemble(c, torch.device("cpu"))[0] for c in (composed, compose()))
    noise = one.images.augment.transforms[1]
    assert float(noise.std) == pytest.approx(0.1)
    for _ in range(2):
        one.iterate()
    assert float(noise.std) == pytest.approx(0.05)  # after 8 images of 16: the time of the last step
    assert not torch.allclose(one.images.batch(0, 8)["real"], plain.images.batch(0, 8)["real"])
    capsys.readouterr()
    assert train("name=x", "data.augment=[affine]", "data.augment.affine.rotation=400") == 1
    assert capsys.readouterr().err.startswith("error: data.augment.affine: rotation=400")
    monkeypatch.setattr(Affine, "adaptive", True)
    assert train("name=x", "data.augment=[affine]") == 1
    assert capsys.readouterr().err.startswith("error: data.augment: what adapts to D cannot change real images alone")
