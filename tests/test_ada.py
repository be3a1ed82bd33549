"""ADA: its transforms against the reference's images, and how p adapts."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from check_augment import check_augment
from conftest import (
    NO_BATCH_NORM,
    assert_equal,
    assert_penalty_has_the_right_derivative,
    largest_difference,
    rows,
    state,
)
from torch.utils._python_dispatch import TorchDispatchMode

from ganduel import build, randomness
from ganduel.augment import resampling
from ganduel.augment.ada import ADA
from ganduel.config.compose import compose

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "stylegan2_ada_res16.npz"
GROUPS = ("blit", "geom", "color", "filter", "noise", "cutout")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def ada(*overrides: str, **values: Any) -> ADA:
    arguments = [f"augment.ada.{override}" for override in overrides]
    arguments += [f"augment.ada.{name}={'null' if value is None else value}" for name, value in values.items()]
    return build.part(compose("train", ["augment=[ada]", *arguments]).augment["ada"], "augment.ada", [])


def seeds(count: int, start: int = 0) -> torch.Tensor:
    return randomness.seeds("test", first=start, count=count)


# Transforms


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"{REFERENCE} is not there")
def test_every_transform_equals_the_reference():
    with np.load(REFERENCE) as npz:
        differences = check_augment(npz)
        assert len(differences) == sum(key.startswith("aug") for key in npz) == 32
    assert {name: d for name, d in differences.items() if not d < 1e-4} == {}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pipe", [*GROUPS, "bgcfnc"])
def test_probability_0_changes_no_bit(pipe, channels):
    """Neither of images nor of gradients, in any stage."""
    images = (torch.randn(5, channels, 16, 16) * 10 ** (-12 * torch.rand(16, 16))).requires_grad_()
    result = ada(pipe=pipe, p=0)(images, seeds(5))
    gradient = torch.randn_like(images)
    assert torch.equal(result.detach().view(torch.int32), images.detach().view(torch.int32))
    assert torch.equal(torch.autograd.grad(result, images, gradient)[0], gradient)


@pytest.mark.parametrize("pipe", [*GROUPS, "bgcfnc"])
def test_what_happens_to_an_image_is_its_own(pipe):
    """Neighbours, order and size of the batch do not matter; what nothing happens to stays bit for bit."""
    transform, images = ada(pipe=pipe, p=0.15), torch.randn(48, 3, 16, 16)
    whole = transform(images, seeds(48))
    others = images.clone()
    others[::2] = torch.randn(24, 3, 16, 16)
    assert torch.equal(transform(others, seeds(48))[1::2], whole[1::2])
    parts = torch.cat([transform(images[i : i + 6], seeds(6, start=i)) for i in range(0, 48, 6)])
    assert torch.allclose(parts, whole, atol=1e-5)
    same = [torch.equal(a, b) for a, b in zip(whole, images, strict=True)]
    assert [torch.equal(a, b) for a, b in zip(parts, images, strict=True)] == same
    assert 0 < sum(same) < 48


@pytest.mark.parametrize(
    ("group", "name", "identities"),
    [
        ("blit", "x_flip", 1 / 2),
        ("blit", "rotate_90", 1 / 4),
        ("blit", "translate_pixels", (1 / 4) ** 2),  # of up to 2 pixels, a quarter is less than half of one
        ("geom", "scale", 0),
        ("geom", "stretch", 0),
        ("geom", "translate", 0),
        ("color", "brightness", 0),
        ("color", "contrast", 0),
        ("color", "luma_flip", 1 / 2),
        ("color", "hue", 0),
        ("color", "saturation", 0),
        ("noise", "noise", 0),
        ("cutout", "cutout", 0),
    ],
)
def test_how_often_they_happen(group, name, identities):
    """With p times their chance, and then by their draw."""
    transform = ada(pipe=group, p=0.8)
    (own,) = [t for t in [*transform.geometry, *transform.colour, *transform.others] if t.func.__name__ == name]
    own.keywords["chance"] = 0.75
    transform.geometry, transform.colour, transform.others = (
        [t for t in stage if t is own] for stage in (transform.geometry, transform.colour, transform.others)
    )
    images = torch.rand(1, 3, 16, 16).expand(2000, -1, -1, -1)
    changed = (transform(images, seeds(2000)) != images).flatten(1).any(1).float().mean().item()
    assert changed == pytest.approx(0.6 * (1 - identities), abs=4 * math.sqrt(0.25 / 2000))


def test_one_of_two_rotations_happens_with_its_chance():
    transform = ada("geom.scale.chance=0", "geom.stretch.chance=0", "geom.translate.chance=0", pipe="geom", p=0.5)
    images = torch.rand(1, 1, 8, 8).expand(2000, -1, -1, -1)
    changed = (transform(images, seeds(2000)) != images).flatten(1).any(1).float().mean().item()
    assert changed == pytest.approx(0.5, abs=0.045)


def test_octaves_keep_the_power_of_natural_images(monkeypatch):
    """Where one of four is amplified, 10/13 of the coarsest's power and 1/13 of each other's add up to the same."""
    found: list[torch.Tensor] = []
    monkeypatch.setattr("ganduel.augment.pipeline.filter_bands", lambda images, gains: found.append(gains) or images)
    ada(pipe="filter", p=0.2)(torch.rand(400, 1, 8, 8), seeds(400))
    for i in range(4):
        others = [j for j in range(4) if j != i]
        alone = found[0][(found[0][:, others] == found[0][:, others[:1]]).all(1) & (found[0][:, i] != 1)]
        assert 10 < len(alone) < 100
        assert (alone[:, i] / alone[:, others[0]]).log2().std() == pytest.approx(1, abs=0.5)
        power = (alone.square() * torch.tensor([10, 1, 1, 1]) / 13).sum(1)
        assert torch.allclose(power, torch.ones_like(power), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pipe", [*GROUPS, "bgcfnc"])
def test_penalties_go_through_it(pipe, channels):
    """The derivative of R1 behind it is right, even under `torch.func.vjp`."""
    weight = torch.randn(channels * 64, dtype=torch.float64, requires_grad=True)
    transform = ada(pipe=pipe, p=0.8)
    assert_penalty_has_the_right_derivative(
        lambda x: (transform(x, seeds(3)).flatten(1) - 0.3) ** 3 @ weight,
        torch.randn(3, channels, 8, 8, dtype=torch.float64),
        weight,
    )


@pytest.mark.slow
def test_gradients_of_images_are_right():
    transform, images = ada(pipe="bgcfnc", p=0.8), torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: transform(x, seeds(2)), images)
    assert torch.autograd.gradgradcheck(lambda x: transform(x, seeds(2)) ** 2, images)


def test_full_precision_under_autocast():
    transform, images = ada(pipe="bgcfnc", p=0.8), torch.randn(4, 3, 16, 16)
    plain = transform(images, seeds(4))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = transform(images, seeds(4))
    assert mixed.dtype == torch.float32 and torch.equal(plain, mixed)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20), (5, 2)])
def test_images_are_mirrored_for_ever(height, width):
    """Moved by whole pixels, however far, in images of any shape."""
    images = torch.rand(2, 3, height, width)
    for across, down in ((0, 0), (1, -2), (-3 * width, 5 * height), (40, 7)):
        matrix = torch.tensor([[1.0, 0, across], [0, 1, down], [0, 0, 1]]).expand(2, 3, 3)
        rows, columns = (
            (size - 1) - ((size - 1) - torch.arange(by, by + size).remainder(2 * (size - 1))).abs()
            for size, by in ((height, down), (width, across))
        )
        moved = resampling.warp(images, matrix)
        # Doubled by an asymmetric filter and halved by its adjoint, what comes from the mirror is not quite exact.
        assert torch.allclose(moved, images[:, :, rows][:, :, :, columns], atol=1e-4)


@pytest.mark.parametrize("size", [4, 16, 64])
def test_octaves_add_up(size):
    images = torch.randn(2, 3, size, size)
    assert torch.allclose(resampling.filter_bands(images, torch.ones(2, 4)), images, atol=1e-5)
    silent = resampling.filter_bands(torch.ones(1, 1, size, size), torch.tensor([[0.0, 1, 1, 1]]))
    assert silent.abs().max() < 1e-5  # a constant is in the coarsest octave


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"p": 1.5}, r"p=1\.5 must be from 0 to 1"),
        ({"target": 2}, "target=2 must be from -1 to 1, or null"),
        ({"interval": 0}, "interval=0 must be at least 1"),
        ({"speed": 0}, "speed=0 kimg above 0"),
        ({"speed": -1}, "speed=-1 kimg above 0"),
        ({"pipe": "bcg"}, "pipe=bcg must be one of blit, geom"),
        ({"pipes.bgc": "[blit,hue]"}, "made of blit, geom, color"),
        ({"geom.scale.std": -1}, r"geom\.scale\.std=-1 must be at least 0"),
        ({"geom.scale.chance": "often"}, "takes a number"),
    ],
)
def test_ranges(changes, words):
    with pytest.raises(build.UserError, match=rf"augment\.ada.*{words}"):
        ada(**changes)


# Adaptation


class Waiting(TorchDispatchMode):
    """Counts what would wait for a device or have a shape of its own making."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item"):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device():
    transform, images = ada(pipe="bgcfnc", p=0.5), torch.rand(4, 3, 16, 16)
    transform(images, seeds(4))  # fills the caches
    with Waiting() as waiting:
        transform(images, seeds(4))
        for _ in range(8):
            transform.adapt(torch.tensor(0.9), 4)
        transform.statistics()
    assert not waiting.found
    with Waiting() as waiting:
        transform.p.item()
    assert waiting.found  # it would be seen


@pytest.mark.parametrize(("accuracy", "direction"), [(1.0, 1), (0.81, 1), (0.79, -1), (0.1, -1)])
def test_p_follows_the_target_at_its_speed(accuracy, direction):
    """r = 2 * accuracy - 1 is above the target of 0.6 from an accuracy of 0.8; 5 kimg of 10 move p by a half."""
    transform = ada(p=0.5, speed=10, interval=4)
    seen = []
    for _ in range(5000 // 40):
        transform.adapt(torch.tensor(accuracy), 40)
        seen.append(transform.p.item())
    assert seen[:4] == pytest.approx([0.5, 0.5, 0.5, 0.5 + direction * 160 / 10000])  # every fourth turn
    assert transform.p.item() == pytest.approx(0.5 + direction * 0.496, abs=1e-5)  # 124 of 125 turns
    assert transform.statistics()["ada/r"].item() == pytest.approx(2 * accuracy - 1)
    for _ in range(8):
        transform.adapt(torch.tensor(accuracy), 40)
    assert transform.p.item() == (1 if direction > 0 else 0)


def test_r_is_over_all_images_since_the_last_move():
    transform = ada(p=0.5, interval=2)
    for accuracy, images, r in ((1.0, 30, 0), (0.5, 10, 0.75), (0.0, 10, 0.75), (0.5, 10, -0.5)):
        transform.adapt(torch.tensor(accuracy), images)
        assert transform.statistics()["ada/r"].item() == pytest.approx(r)
    assert transform.p.item() == pytest.approx(0.5 + 40 / 500e3 - 20 / 500e3, abs=1e-7)


def test_p_moves_at_once_where_more_turns_than_the_interval_have_passed_since():
    """As after a resume with a shorter interval."""
    transform = ada(p=0.5, speed=0.5, interval=2)
    transform.tally.copy_(torch.tensor([30.0, 40.0, 5.0]))
    transform.adapt(torch.tensor(1.0), 10)
    assert transform.statistics()["ada/r"].item() == pytest.approx(0.8)
    assert transform.p.item() == pytest.approx(0.6)  # 50 of 500 images
    assert not transform.tally.any()


def test_without_a_target_p_stays():
    transform = ada(p=0.2, target=None, interval=1)
    transform.adapt(torch.tensor(1.0), 1000)
    assert not transform.adaptive and transform.p.item() == pytest.approx(0.2)
    assert transform.statistics() == {"ada/p": transform.p}


@pytest.fixture
def adapting(compose: Callable[..., dict[str, Any]], trainer: Callable[..., Any]) -> Callable[..., Any]:
    """A trainer whose p moves in every turn, and far."""
    fast = ("augment=[ada]", "augment.ada.interval=1", "augment.ada.speed=0.1", "augment.ada.p=0.5")
    return lambda *overrides, **model: trainer(*fast, *overrides, **model)


@pytest.mark.slow
def test_the_trainer_tells_it_about_reals(adapting):
    for logit, expected in ((5.0, 0.58), (-5.0, 0.42)):
        one = adapting()
        one.game.discriminators["D"].register_forward_hook(lambda module, images, y, to=logit: 0 * y + to)
        one.iterate()
        assert one.readings() == {"ada/p": pytest.approx(expected), "ada/r": pytest.approx(math.copysign(1, logit))}


@pytest.mark.slow
def test_p_is_the_same_over_micro_batches(adapting):
    ends = []
    for micro in (8, 4, 2):
        one = adapting(f"micro_batch={micro}", *NO_BATCH_NORM)
        for _ in range(3):
            one.iterate()
        ends.append(one.game.augment.state_dict())
    assert ends[0]["D.transforms.0.p"].item() != 0.5
    assert largest_difference(ends[0], ends[1]) == largest_difference(ends[0], ends[2]) == 0


@pytest.mark.slow
def test_a_run_resumes_with_its_p(train):
    """And with what it has counted since p last moved."""
    settings = ("interval=3", "speed=0.1", "p=0.5", "pipe=bgcfnc")
    arguments = ("augment=[ada]", *(f"augment.ada.{setting}" for setting in settings), "every.log=1 steps")
    for name, steps in (("whole", 8), ("half", 4), ("half", 8)):
        assert train(f"name={name}", f"duration={steps} steps", *arguments) == 0
    assert_equal(state("runs/whole")["state"], state("runs/half")["state"])
    assert rows("runs/whole") == rows("runs/half")
    p = [row["ada/p"] for row in rows("runs/half")]
    assert p[0] == p[1] == 0.5 != p[2] == p[4] != p[5]
    assert all("ada/r" in row for row in rows("runs/half"))


@pytest.mark.parametrize("model", ["dcgan", "vanilla"])
def test_nothing_leaks_to_the_generator(trainer, model):
    """Its loss sees augmented images, its samples are clean: those of a generator without augmentation."""
    one = trainer("augment=[ada]", "augment.ada.target=null", "augment.ada.p=0.5", model=model)
    batch = one.draw(one.turns.order[-1])
    (duel,) = one.game.duels(batch, one.game.generators)
    judged: list[torch.Tensor] = []
    one.game.discriminators["D"].register_forward_pre_hook(lambda module, images: judged.append(images[0].detach()))
    one.generator_loss(batch, [duel])
    made = duel.fake.detach()
    assert not torch.equal(judged[0], made)
    one.game.augment["D"].transforms[0].p.fill_(0)
    one.generator_loss(batch, one.game.duels(batch, one.game.generators))
    assert torch.equal(judged[1], made)
    one.game.augment["D"].transforms[0].p.fill_(0.5)
    plain = trainer(model=model)
    samples = [t.game.sample(t.game.generators, batch["seed"]) for t in (one, plain)]
    assert torch.equal(*samples)
