"""PacGAN (Lin et al. 2018): D judges packs of images of the same kind, as one image with more channels."""

import pytest
import torch
from by_hand import LinearGenerator, N, close, duel
from conftest import MODELS, largest_difference
from torch import Tensor, nn

from ganduel import batches, build, losses, randomness, regularizers
from ganduel.augment import Chain
from ganduel.augment.noise import InstanceNoise
from ganduel.game import AugmentedDiscriminator, Duel, LatentGame
from ganduel.sampling import judging
from ganduel.system.errors import UserError
from ganduel.validation import validate

PACKED = "model.pack=2"
FAMILIES = [name for name in MODELS if name != "projected"]  # its frozen network sees images of three channels


class Linear(nn.Module):
    """Of two images of four pixels: v.x for the first, w.y for the second, and 2 c (x.1)(y.1) for both."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.w = nn.Parameter(torch.arange(1.0, 5)), nn.Parameter(torch.tensor([2.0, 0, -1, 1]))

    def forward(self, images: Tensor) -> Tensor:
        x, y = images.flatten(2).unbind(1)
        return x @ self.v + y @ self.w + 2 * x.sum(1) * y.sum(1)


def test_a_pack_holds_images_of_one_kind_as_far_apart_as_possible():
    images = torch.arange(6.0)[:, None].expand(6, 3)
    packs = AugmentedDiscriminator(nn.Identity(), Chain(), torch.arange(6), pack=2)(images)
    assert packs.tolist() == [[0, 0, 0, 3, 3, 3], [1, 1, 1, 4, 4, 4], [2, 2, 2, 5, 5, 5]]  # vectors, one after another
    packs = AugmentedDiscriminator(nn.Identity(), Chain(), torch.arange(6), pack=3)(images[..., None, None])
    assert packs.shape == (2, 9, 1, 1)
    assert packs[:, ::3, 0, 0].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_every_image_is_augmented_as_if_it_were_alone():
    images, seed = torch.rand(4, 1, 2, 2), torch.arange(4)
    alone, packed = (
        AugmentedDiscriminator(nn.Identity(), InstanceNoise(0.5), seed, pack=pack)(images) for pack in (1, 2)
    )
    assert torch.equal(packed, torch.stack([alone[:2, 0], alone[2:, 0]], dim=1))


def test_a_step_of_both_players_by_hand():
    """Wasserstein's loss, over two packs of two of the four images."""
    game = LatentGame(LinearGenerator(), judge := Linear(), Chain(), pack=2)
    one = duel(game=game)
    v, w, A = (x.detach().double() for x in (judge.v, judge.w, game.generators["G"].A))

    def images(player: str) -> Tensor:
        z = randomness.normal(randomness.seeds(7, "turn", 0, player, 0, first=0, count=N), (2,), "latent").double()
        return torch.cat([z, torch.ones(N, 1)], 1)

    real = one.images.batch(0, N)["real"].double().flatten(1)
    one.iterate()
    for x, sign in ((real, 1), (images("D") @ A.T, -1)):
        v = v + 0.1 * sign * x[:2].mean(0)
        w = w + 0.1 * sign * x[2:].mean(0)
    assert judge.v.tolist() == close(v.tolist()) and judge.w.tolist() == close(w.tolist())
    inputs = images("G")
    x, y = (inputs @ A.T).split(2)
    by_x, by_y = (a + 2 * b.sum(1, keepdim=True) for a, b in ((v, y), (w, x)))
    moved = A + 0.3 * (by_x.T @ inputs[:2] + by_y.T @ inputs[2:]) / 2
    assert game.generators["G"].A.flatten().tolist() == close(moved.flatten().tolist())


def pair(real: Tensor, fake: Tensor, pack: int) -> Duel:
    seed = torch.arange(len(real))
    network = Linear()
    discriminator = network if pack == 1 else lambda x: network(x.unflatten(0, (2, -1)).transpose(0, 1).flatten(1, 2))
    return Duel("", discriminator, real, fake, lambda source, *_: source, seed, pack=pack)


@pytest.mark.parametrize("penalty", [regularizers.r1, regularizers.r2], ids=["r1", "r2"])
def test_r1_and_r2_are_squared_norms_of_the_slope_at_a_pack(penalty):
    """By x the slope is v + 2 (y.1), by y it is w + 2 (x.1); the squares of all eight numbers count."""
    real, fake = torch.rand(2, 4, 1, 2, 2)
    x, y = (real if penalty is regularizers.r1 else fake).flatten(1).split(2)
    by_x, by_y = Linear().v + 2 * y.sum(1, keepdim=True), Linear().w + 2 * x.sum(1, keepdim=True)
    expected = (by_x.square().sum(1) + by_y.square().sum(1)).mean().item()
    assert penalty(pair(real, fake, 2)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_the_gradient_penalty_is_that_of_images_with_twice_the_channels(target):
    """Two packs of four images, against two images of two channels: the same two shares of the way, the same norms."""
    real, fake = torch.rand(2, 4, 1, 2, 2)
    joined = [torch.cat([x[:2], x[2:]], dim=1) for x in (real, fake)]
    found = regularizers.GradientPenalty(target, one_sided=False)(pair(real, fake, 2))
    assert found.item() == pytest.approx(regularizers.GradientPenalty(target, False)(pair(*joined, 1)).item(), rel=1e-5)


def test_each_pack_has_one_noisy_label():
    """With flipped labels the loss is the mean over two packs, not over four images."""
    game = LatentGame(LinearGenerator(), Linear(), Chain(), pack=2)
    one = duel(losses.nonsaturating(0.0, 0.0, 0.0, 0.3), game=game)
    one.iterate()
    assert one.not_finite() == []


@pytest.mark.parametrize("model", FAMILIES)
def test_only_the_first_layer_of_d_grows_and_it_trains(trainer, model):
    """D has as many weights more as its first layer has of them for the channels of one image."""
    alone, packed = trainer(model=model), trainer(PACKED, model=model)
    before, after = ({n: p.shape for n, p in one.game.discriminators.named_parameters()} for one in (alone, packed))
    grown = {name.split(".")[0]: shape for name, shape in after.items() if shape != before[name]}
    assert before.keys() == after.keys() and grown.keys() == {*alone.game.discriminators}  # one layer of each D
    for name, shape in grown.items():
        assert [shape[1] / was[1] for n, was in before.items() if n.startswith(name) and after[n] != was] == [2]
    assert {n: p.shape for n, p in alone.game.generators.named_parameters()} == {
        n: p.shape for n, p in packed.game.generators.named_parameters()
    }
    start = {name: value.clone() for name, value in packed.game.discriminators.state_dict().items()}
    for _ in range(2):
        packed.iterate()
    assert packed.not_finite() == [] and largest_difference(start, packed.game.discriminators.state_dict()) > 0
    assert all(torch.isfinite(torch.tensor(value)) for value in validate(packed).values())
    batch = packed.draw(packed.turns.order[0])
    (face, *_) = judging.in_training(packed, batch)
    assert len(face.real) == 8 and len(face.of_real) % 4 == 0  # four packs, each with a logit for every patch


def test_micro_batches_keep_the_packs(trainer):
    """Groups of two packs of two images."""
    settings = (PACKED, "model.discriminator.stddev_group=2", "augment=[]", "regularizer=[]", "optimizer=sgd")
    ends = []
    for size in (8, 4, 2):
        one = trainer(*settings, "optimizer.D.lr=0.1", model="stylegan2_ada")
        assert batches.sizes(one.game, {}, 8, world=1) == [4, 8]
        one.micro_batch = size
        one.iterate()
        ends.append(one.game.discriminators.state_dict())
    assert largest_difference(ends[0], ends[1]) < 1e-6 < largest_difference(ends[0], ends[2])


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (
            "dcgan",
            ["model.pack=3"],
            "batch_size=8 cannot be divided into packs of 3 images (model.pack); set a multiple of 3",
        ),
        (
            "dcgan",
            [PACKED, "micro_batch=1"],
            "micro_batch=1 breaks up the packs of 2 images that D judges (model.pack); it takes 2, 4, 8",
        ),
        ("dcgan", ["model.pack=0"], "model.pack=0 is not allowed; it takes 1 or more"),
        ("dcgan", ["model.pack=two"], "model.pack=two is not allowed; it takes an integer"),
        (
            "r3gan",
            [PACKED, "model.classes=10"],
            "model: pack=2 with classes=10: the images of a pack have different classes; set model.pack=1 or "
            "model.classes=0",
        ),
        (
            "projected",
            [PACKED],
            "model.discriminator: image_channels=2: the frozen network sees 1 or 3 channels, so it sees no packs; set "
            "model.pack=1",
        ),
    ],
)
def test_what_is_refused(trainer, model, settings, message):
    with pytest.raises(UserError) as error:
        trainer(*settings, model=model)
    assert str(error.value) == message


def test_a_game_of_ones_own_needs_no_pack(compose):
    config = compose()
    del config.model["pack"]  # as in an older checkpoint
    assert build.game(config.model, {}, []).pack == 1
