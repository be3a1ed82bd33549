"""How discriminators meet images, by hand: groups, packs, classes, and what is refused."""

import pytest
import torch
from torch import Tensor, nn

from ganduel import randomness
from ganduel.augment import Chain
from ganduel.data.image_set import ImageSet
from ganduel.game import AugmentedDiscriminator, Game, Generator, LatentGame, PointGame


class Comparing(nn.Module):
    """The logit of an image is its value less the mean of its group of two, plus its label. Keeps what it has seen."""

    group_size = 2

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[float]] = []

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append(images.flatten().tolist())
        value = images.flatten()
        alone = value - value.unflatten(0, (2, -1)).mean(0).repeat(2)
        return alone if label is None else alone + label


class Flat(Generator):
    """Latents of two numbers as they are."""

    latent = 2

    def synthesis(self, w: Tensor, seed: Tensor | None = None) -> Tensor:
        return w[..., None, None]


def column(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def judge(network: nn.Module, count: int, label: Tensor | None = None) -> AugmentedDiscriminator:
    return AugmentedDiscriminator(network, Chain(), torch.arange(count), label)


@pytest.mark.parametrize("label", [None, torch.tensor([0, 100, 200, 300])])
def test_one_pass_compares_no_real_with_a_fake_image(label):
    """Images 0 and 2, 1 and 3 are compared with each other: 1 and 3, 2 and 4; 10 and 30, 20 and 60."""
    network = Comparing()
    real, fake = judge(network, 4, label).both(column(1, 2, 3, 4), column(10, 20, 30, 60))
    own = torch.zeros(4) if label is None else label
    assert torch.equal(real, own + torch.tensor([-1.0, -1, 1, 1]))
    assert torch.equal(fake, own + torch.tensor([-10.0, -20, 10, 20]))
    assert network.seen == [[1, 2, 10, 20, 3, 4, 30, 60]]


def test_groups_that_do_not_divide_the_batch_take_two_passes():
    network = Comparing()
    network.forward = lambda images: network.seen.append(images.flatten().tolist()) or images.flatten()
    real, fake = judge(network, 3).both(column(1, 2, 3), column(4, 5, 6))
    assert network.seen == [[1, 2, 3], [4, 5, 6]] == [real.tolist(), fake.tolist()]


def game(classes: int = 0, pack: int = 1) -> LatentGame:
    generator = Flat()
    generator.classes = classes
    return LatentGame(generator, nn.Flatten(), Chain(), pack)


def test_classes_are_drawn_as_often_as_images_have_them():
    seeds = randomness.seeds("classes", first=0, count=3000)
    assert game().label(seeds) is None
    every = torch.bincount(game(classes=3).label(seeds), minlength=3)
    assert every.sum() == 3000 and every.min() > 900  # 1,000 are expected, with a standard deviation of 26
    some = torch.bincount(game(classes=3).label(seeds, torch.tensor([2, 0, 2, 2])), minlength=3).tolist()
    assert some[1] == 0 and 650 < some[0] < 850 and some[2] == 3000 - some[0]  # a quarter of class 0


def test_packs_and_what_is_refused():
    with pytest.raises(ValueError, match="pack=0 must be at least 1"):
        game(pack=0)
    with pytest.raises(ValueError, match=r"pack=2 with classes=3: .* set model\.pack=1 or model\.classes=0"):
        game(classes=3, pack=2)
    assert game(pack=2).pack == 2 and game(classes=3).classes == 3


class OfClass(Flat):
    """The image of a class is its number."""

    classes = 3

    def map_latent(self, latent: Tensor, seed: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        return torch.zeros_like(latent) if label is None else label[:, None].expand_as(latent).float()


class Labelled(ImageSet):
    """Four training images of a set of six, and their labels."""

    def __init__(self, labels: Tensor | None) -> None:
        self.labels, self.train = labels, torch.tensor([1, 2, 3, 5], dtype=torch.int32)
        self.device = torch.device("cpu")


def test_metrics_draw_the_classes_of_the_training_images():
    """All training images have class 2, the others 0. Without labels, all three classes appear."""
    one = LatentGame(OfClass(), nn.Flatten(), Chain())
    for labels, expected in ((torch.tensor([0, 2, 2, 2, 0, 2]), {2}), (None, {0, 1, 2})):
        (comparison,) = one.comparisons(one.generators, Labelled(labels))
        made = comparison.make(range(50), 0)
        assert {*made.flatten().tolist()} == expected and not made.requires_grad
        assert comparison.walk is None and torch.equal(comparison.real, torch.tensor([1, 2, 3, 5]))


def test_a_run_shows_the_images_of_the_first_64_seeds():
    one = game()
    shown, columns = one.show(one.generators, Labelled(None), batch=10)
    assert columns is None and torch.equal(shown[..., 0, 0], randomness.normal(torch.arange(64), (2,), "latent"))


def test_a_game_judges_images_one_by_one_unless_it_is_told():
    class Own(LatentGame):
        def __init__(self) -> None:
            Game.__init__(self, {"G": Flat()}, {"D": nn.Flatten()}, Chain())

    points = PointGame(Flat(), nn.Flatten(), Chain(), 1.0)
    assert Own().pack == LatentGame(Flat(), nn.Flatten(), Chain()).pack == points.pack == 1


def test_the_average_of_w_is_taken_by_generators_that_have_one():
    met = []

    class Averaging(Flat):
        def update_w_average(self, latent: Tensor, label: Tensor | None) -> None:
            met.append(latent)

    seeds = torch.arange(5)
    game().after_iteration(seeds)
    LatentGame(Averaging(), nn.Flatten(), Chain()).after_iteration(seeds)
    assert len(met) == 1 and torch.equal(met[0], randomness.normal(seeds, (2,), "latent"))


def test_the_output_for_a_point_is_that_for_a_pack_of_it():
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.0, 10, 100, 1000]))

        def forward(self, points: Tensor) -> Tensor:
            assert points.shape[1:] == (4, 1, 1)
            return points.flatten(1) @ self.weight

    points = torch.tensor([[1.0, 2], [3, 4]])[..., None, None]
    one = PointGame(Flat(), Weighted(), Chain(), span=1.0, pack=2)
    assert one.field(points).tolist() == [2121, 4343]
