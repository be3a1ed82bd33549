"""What a batch may be divided into: the same numbers, or a line that says why not."""

import pytest
import torch
from conftest import NO_BATCH_NORM, largest_difference

from ganduel import batches, checks
from ganduel.batches import split
from ganduel.commands.train import memory_advice
from ganduel.game import LatentGame
from ganduel.models.stylegan2_discriminator import minibatch_deviation
from ganduel.regularizers import PathLength
from ganduel.speed import forecast
from ganduel.system.errors import UserError
from ganduel.trainer import Trainer

LENGTHS = "regularizer=[path_length]"


def divisors(number):
    return [n for n in range(1, number + 1) if number % n == 0]


def allowed(one):
    return batches.sizes(one.game, dict(one.regularizers.items()), one.batch_size, world=1)


@pytest.mark.parametrize(
    ("count", "together", "found"), [(8, 4, 4), (6, 4, 3), (10, 4, 2), (7, 4, 1), (3, 4, 3), (1, 4, 1), (32, 1, 1)]
)
def test_groups(count, together, found):
    assert batches.group(count, together) == found


class Comparing(torch.nn.Module):
    """Has nothing of a discriminator but how many images it compares."""

    def __init__(self, together):
        super().__init__()
        self.group_size = together


@pytest.mark.parametrize("together", [2, 3, 4, 6])
def test_parts_that_are_allowed_have_the_maps_of_the_whole_batch_and_others_have_not(trainer, together):
    """For every batch of up to 24 images and every size that divides it."""
    made = trainer().game
    game = LatentGame(made.generators["G"], Comparing(together), made.chains[""])
    seen = set()
    for batch in range(1, 25):
        images = torch.randn(batch, 3, 2, 2, generator=torch.Generator().manual_seed(batch))
        whole = minibatch_deviation(images, together)[:, 3, 0, 0]
        for size in divisors(batch):
            maps = torch.empty(batch)
            for i, part in enumerate(split({"seed": torch.arange(batch), "images": images}, size)):
                maps[i :: batch // size] = minibatch_deviation(part["images"], together)[:, 3, 0, 0]
            same = torch.allclose(maps, whole, atol=1e-6)
            assert (size in batches.sizes(game, {}, batch, world=1)) == same, (batch, size)
            for world in divisors(batch // size):
                assert (size in batches.sizes(game, {}, batch, world)) == same, (batch, size, world)
            seen.add(same)
    assert seen == {True, False}


def test_parts_that_are_allowed_train_as_the_whole_batch_and_others_do_not(trainer):
    """Groups of four images."""
    sizes, ends = [8, 4, 2, 1], []
    for size in sizes:
        one = trainer("augment=[]", "regularizer=[]", "optimizer=sgd", "optimizer.D.lr=0.1", model="stylegan2_ada")
        assert allowed(one) == [4, 8]
        one.micro_batch = size
        one.iterate()
        ends.append(one.game.discriminators.state_dict())
    differences = [largest_difference(ends[0], end) for end in ends[1:]]
    assert differences[0] < 1e-6 and min(differences[1:]) > 1e-4


@pytest.mark.parametrize(
    ("count", "share", "taken"), [(8, 0.5, 4), (5, 0.5, 3), (12, 0.3, 4), (1, 0.01, 1), (8, 1, 8), (100, 0.07, 7)]
)
def test_the_first_images(count, share, taken):
    """Rounded up, but not for the sake of a last binary digit."""
    assert batches.first(count, share) == taken


@pytest.mark.parametrize("share", [0.07, 0.3, 0.45, 0.5, 1.0])
def test_parts_that_are_allowed_take_the_first_images_of_the_whole_batch_and_others_take_more(trainer, share):
    """For every batch of up to 24 images and every size that divides it, by the images' numbers."""
    game, penalties = trainer().game, {"path_length": PathLength(decay=0.01, share=share)}
    for batch in range(1, 25):
        for size in divisors(batch):
            parts = [part["seed"] for part in split({"seed": torch.arange(batch)}, size)]
            taken = sorted(int(i) for part in parts for i in part[: batches.first(size, share)])
            same = taken == [*range(batches.first(batch, share))]
            assert (size in batches.sizes(game, penalties, batch, world=1)) == same, (batch, size)
            assert same or len(taken) > batches.first(batch, share)


def test_path_lengths_are_those_of_the_whole_batch_in_parts_that_are_allowed(trainer):
    """Of the first 4 of 12 images; parts of 4, which would take 2 each, are not."""
    ends, lengths = [], []
    for size in (12, 6, 3, 4):
        few = ("batch_size=12", "regularizer.path_length.fn.share=0.3", "regularizer.path_length.every=1")
        one = trainer(*NO_BATCH_NORM, "regularizer=[path_length]", *few, "optimizer=sgd", "optimizer.G.lr=0.01")
        assert allowed(one) == [3, 6, 12]
        one.micro_batch = size
        one.iterate()
        ends.append(one.game.generators.state_dict())
        lengths.append(one.regularizers["path_length"].mean.item())
    assert max(largest_difference(ends[0], end) for end in ends[1:3]) < 1e-6 < largest_difference(ends[0], ends[3])
    assert lengths[1:3] == pytest.approx(lengths[:1] * 2, rel=1e-5) and lengths[3] != pytest.approx(
        lengths[0], rel=1e-3
    )


GROUPS = "changes the groups of 4 images that model.discriminator compares (its stddev_group)"
ALONE = "gives BatchNorm1d a single image, and it cannot normalise one image"
MORE = "makes regularizer.path_length take 8 images of the batch instead of 4 (its fn.share=0.5)"
LARGER = "take a larger batch_size"


@pytest.mark.parametrize(
    ("world", "model", "overrides", "message"),
    [
        (1, "stylegan2_ada", ["micro_batch=2"], f"micro_batch=2 {GROUPS}; it takes 4, 8"),
        (
            1,
            "stylegan2_ada",
            ["micro_batch=3"],
            "micro_batch=3 does not divide the 8 images of a process; it takes 4, 8",
        ),
        (1, "stylegan2_ada", ["batch_size=12", "micro_batch=6"], f"micro_batch=6 {GROUPS}; it takes 4, 12"),
        (2, "stylegan2_ada", ["batch_size=16", "micro_batch=2"], f"micro_batch=2 {GROUPS}; it takes 4, 8"),
        (4, "stylegan2_ada", [], f"batch_size=8 over 4 processes {GROUPS}; {LARGER} or fewer processes (2)"),
        (1, "vanilla", ["micro_batch=1"], f"micro_batch=1 {ALONE}; it takes 2, 4, 8"),
        (1, "vanilla", [LENGTHS, "micro_batch=2"], f"micro_batch=2 {ALONE}; it takes 4, 8"),  # half of 2 is one
        (1, "vanilla", ["batch_size=1"], f"batch_size=1 {ALONE}; {LARGER}"),
        (8, "vanilla", [], f"batch_size=8 over 8 processes {ALONE}; {LARGER} or fewer processes (4)"),
        (1, "dcgan", [LENGTHS, "micro_batch=1"], f"micro_batch=1 {MORE}; it takes 2, 4, 8"),
        (8, "dcgan", [LENGTHS], f"batch_size=8 over 8 processes {MORE}; {LARGER} or fewer processes (4)"),
    ],
)
def test_parts_that_would_change_a_run_are_refused(trainer, monkeypatch, world, model, overrides, message):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(UserError) as refused:
        trainer(*overrides, model=model)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        ([], None),
        (["model.discriminator.stddev_group=8"], None),
        (["batch_size=6"], "in groups of 3, not of 4 (its stddev_group); set a multiple of 4"),
        (["batch_size=3"], "in groups of 3, not of 4 (its stddev_group); set a multiple of 4"),
        (
            ["batch_size=7"],
            "in groups of 1, not of 4 (its stddev_group), so it cannot detect that all images look alike;",
        ),
        (["batch_size=7", "model.discriminator.stddev_group=0"], None),
    ],
)
def test_a_batch_that_makes_smaller_groups_is_warned_of(trainer, overrides, warned):
    one = trainer(*overrides, model="stylegan2_ada")
    doubts = checks.doubts(one.game, one.loss, {}, one.batch_size)
    assert len(doubts) == (warned is not None) and all(warned in doubt for doubt in doubts)


def test_a_group_of_one_is_refused(trainer):
    with pytest.raises(UserError, match="stddev_group=1 compares every image with itself alone; set 2 or more, or 0"):
        trainer("model.discriminator.stddev_group=1", model="stylegan2_ada")


@pytest.mark.parametrize(
    ("model", "overrides", "sizes"),
    [
        ("stylegan2_ada", ["batch_size=16"], [4, 8, 16]),
        ("stylegan2_ada", ["batch_size=6", "regularizer=[]"], [3, 6]),
        ("stylegan2_ada", ["batch_size=6"], [6]),
        ("stylegan2_ada", ["model.discriminator.stddev_group=0"], [2, 4, 8]),
        ("vanilla", [LENGTHS], [4, 8]),
        ("dcgan", [LENGTHS, "regularizer.path_length.fn.share=0.25"], [4, 8]),
        ("dcgan", [], [2, 4, 8]),
    ],
)
def test_auto_tries_only_what_is_allowed(trainer, monkeypatch, model, overrides, sizes):
    one = trainer("micro_batch=auto", *overrides, model=model)
    tried = []
    monkeypatch.setattr(Trainer, "iterate", lambda self: tried.append(self.micro_batch))
    monkeypatch.setattr(forecast, "available", lambda device: 1e9)
    assert forecast.largest_micro_batch(one) == sizes[-1]
    assert tried == sizes


@pytest.mark.parametrize(
    ("micro", "message"),
    [
        (8, "out of memory with micro_batch=8: set micro_batch=4, which gives the same gradients"),
        (4, "out of memory with micro_batch=4, and no smaller one gives the same gradients: train a smaller model"),
    ],
)
def test_advice_for_too_little_memory_is_allowed(trainer, micro, message):
    one = trainer(f"micro_batch={micro}", model="stylegan2_ada")
    with pytest.raises(UserError, match=message), memory_advice(one):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
