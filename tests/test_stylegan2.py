"""StyleGAN2: its published sizes and numbers, what is random in it, its precisions, and its training."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MODELS, assert_equal, largest_difference
from test_scripts import script

from ganduel import build, randomness
from ganduel.config.compose import compose
from ganduel.game import AugmentedDiscriminator, Generator, LatentGame
from ganduel.models.stylegan2 import StyledConvolution
from ganduel.models.stylegan2_discriminator import Convolution, minibatch_deviation
from ganduel.models.stylegan2_layers import Mapping, own_precision
from ganduel.regularizers import PathLength
from ganduel.runs import summary
from ganduel.system.errors import UserError
from ganduel.trainer import Move

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"the reference numbers are not in {REFERENCE}")
SMALL = MODELS["stylegan2_ada"]
PLAIN = ("augment=[]", "optimizer=sgd")


def game(*overrides: str) -> LatentGame:
    composed = compose("train", [*SMALL, *overrides])
    torch.manual_seed(0)
    made = build.game(composed.model, {}, [])
    assert isinstance(made, LatentGame)
    return made


def generator(*overrides: str) -> Any:
    made = game(*overrides).generators["G"]
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "noise_strength" in name:  # they start at 0
                parameter.fill_(0.5)
    return made


def seeds(count: int) -> torch.Tensor:
    return randomness.seeds("test", first=0, count=count)


# What was published

# Some rows of the table in report R0.
REPORTED = {
    "G": {"mapping.fc1": 262_656, "blocks.b4": 8_192, "blocks.b64.conv0": 1_442_561, "blocks.b64.torgb": 132_099},
    "D": {"b64.fromrgb": 1_024, "b64.skip": 131_072, "b64.conv1": 1_180_160, "b4.conv": 2_364_416, "b4.out": 513},
}


@needs_reference
def test_every_layer_has_the_published_sizes():
    composed = compose("train", ["model=stylegan2_ada", "data.resolution=64", "data.channels=3"])
    made = build.game(composed.model, {}, [])
    for player, network in (("G", made.generators["G"]), ("D", made.discriminators["D"])):
        published = json.loads((REFERENCE / f"stylegan2_ada_64_{player}_shapes.json").read_text())
        tensors = [t | {"name": t["name"].replace("synthesis.", "blocks.")} for t in published["state_dict"]]
        shapes = {t["name"]: tuple(t["shape"]) for t in tensors if "resample_filter" not in t["name"]}
        assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == shapes
        rows = {row.name: row.parameters for row in summary.layers(network, {})}
        expected = dict.fromkeys(rows, 0)
        for tensor in tensors:
            if tensor["kind"] == "param":
                part = tensor["name"]
                while part not in rows:  # in the table, a convolution has its affine layer with it
                    part = part.rpartition(".")[0]
                expected[part] += math.prod(tensor["shape"])
        assert rows == expected and sum(rows.values()) == published["n_params"]
        assert rows.items() >= REPORTED[player].items()


@needs_reference
def test_reference_numbers():
    printed = script("check_reference", str(REFERENCE / "stylegan2_ada_res16.npz"))
    rows = [line.split(maxsplit=2) for line in printed.splitlines()[1:]]
    assert len(rows) == 16 and {"out/ws", "out/pl_lengths", "grad_r1/b4.fc.weight"} <= {row[2] for row in rows}
    assert all(0 <= float(value) < 1e-4 for row in rows for value in row[:2])


def test_the_automatic_configuration():
    """By resolution and batch: what the paper's configuration for one GPU has."""

    def automatic(*overrides: str) -> tuple:
        c = compose("train", ["model=stylegan2_ada", *overrides])
        rates = {player["lr"] for player in c.optimizer.values()}
        r1 = c.regularizer["r1_stylegan"]["weight"]
        return c.batch_size, c.model["channel_base"], rates, c.ema.half_life, pytest.approx(2 * r1)

    assert automatic("data.resolution=64") == (32, 16384, {0.0025}, "10 kimg", 0.0256)
    assert automatic("data.resolution=256") == (16, 16384, {0.0025}, "5 kimg", 0.0002 * 256**2 / 16)
    assert automatic("data.resolution=512") == (8, 32768, {0.0025}, "2.5 kimg", 0.0002 * 512**2 / 8)
    assert automatic("data.resolution=1024") == (4, 32768, {0.002}, "1.25 kimg", 0.0002 * 1024**2 / 4)
    assert automatic("data.resolution=64", "batch_size=8") == (8, 16384, {0.0025}, "2.5 kimg", 0.0002 * 64**2 / 8)


# Sizes


@pytest.mark.parametrize("architecture", ["resnet", "orig"])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind(architecture, classes, channels):
    made = game(
        f"model.discriminator.architecture={architecture}", f"model.classes={classes}", f"data.channels={channels}"
    )
    seed = seeds(5)
    images = made.sample(made.generators, seed)
    assert images.shape == (5, channels, 16, 16) and images.dtype == torch.float32
    logits = made.discriminators["D"](images, made.label(seed))
    assert logits.shape == (5,)
    assert ("b16.skip.weight" in made.discriminators["D"].state_dict()) == (architecture == "resnet")
    if classes:
        label = torch.tensor([0, 1, 2, 0, 1])
        other = (label + 1) % 3
        latent = made.latent(seed)
        assert (made.generators["G"](latent, seed, label) - made.generators["G"](latent, seed, other)).abs().min() > 0
        assert (made.discriminators["D"](images, label) - made.discriminators["D"](images, other)).abs().min() > 0
        with pytest.raises(ValueError, match="needs the images' labels"):
            made.generators["G"].map_latent(latent)


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512, 1024])
def test_every_size(resolution):
    thin = ("model.channel_max=2", f"model.channel_base={resolution}", f"data.resolution={resolution}")
    made = game(*thin)
    images = made.sample(made.generators, seeds(1))
    assert images.shape == (1, 1, resolution, resolution)
    assert made.discriminators["D"](images).shape == (1,)
    assert made.generators["G"].layers == 2 * (int(math.log2(resolution)) - 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("data.resolution=24", "resolution=24 must be a power of two from 16 to 1024"),
        ("data.resolution=8", "resolution=8 must be a power of two"),
        ("model.channel_base=8", "channel_base=8 must be at least the resolution 16"),
        ("model.generator.mixing=2", "mixing=2"),
        ("model.generator.mapping=0", "layers=0 must be at least 1"),
        ("model.discriminator.freeze=-1", "freeze=-1 must be at least 0"),
        ("model.generator.noise=loud", "model.generator.noise=loud is not allowed; it takes random, constant, none"),
    ],
)
def test_what_cannot_be_built(overrides, message):
    with pytest.raises(UserError, match=message):
        game(overrides)


def test_signals_start_at_unit_scale():
    """Equalised learning rates: all layers start near it, whatever their sizes (filters only take away)."""
    wide = game("model.channel_base=4096", "model.channel_max=64", "model.latent=64", "model.generator.width=64")
    outputs: dict[str, float] = {}
    for name, module in wide.named_modules():
        if isinstance(module, StyledConvolution | Convolution | Mapping):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: outputs.update({name: output.square().mean().sqrt().item()})
            )
    images = wide.sample(wide.generators, seeds(16))
    wide.discriminators["D"](torch.randn_like(images))
    assert len(outputs) == 1 + 5 + 8 and all(0.15 < scale < 2 for scale in outputs.values()), outputs


# What is random


def test_one_seed_is_one_image_whatever_the_batch():
    for training in (False, True):
        made = generator().train(training)
        seed = seeds(6)
        latent = randomness.normal(seed, (made.latent,), "latent")
        whole = made(latent, seed)
        parts = torch.cat([made(latent[i : i + 1], seed[i : i + 1]) for i in range(6)])
        assert (whole - parts).abs().max() < 1e-5
        moved = made(latent, seed + 1)
        assert (whole - moved).abs().amax(dim=(1, 2, 3)).min() > 1e-2


def test_kinds_of_noise():
    made = generator().eval()
    seed = seeds(2)
    w = made.map_latent(torch.ones(2, made.latent))

    def images(noise: Any) -> torch.Tensor:
        made.set_noise(noise)
        return made.synthesis(w, seed)

    random, constant, none = (images(kind) for kind in ("random", "constant", "none"))
    assert (random[0] - random[1]).abs().max() > 1e-2  # one w, two seeds
    for same in (constant, none):
        assert torch.equal(same[0], same[1])
    assert (constant - none).abs().max() > 1e-2
    made.set_noise("random")
    assert torch.equal(made.synthesis(w), constant)  # without seeds
    mixed = images(["none"] * 4 + ["random"])
    assert 1e-3 < (mixed[0] - mixed[1]).abs().max() < (random[0] - random[1]).abs().max()
    for wrong in ("loud", ["none"], ["loud"] * 5):
        with pytest.raises(UserError, match="it takes random, constant, none, or a list of 5 of them"):
            made.set_noise(wrong)


def test_each_layer_draws_noise_of_its_own():
    made = generator()
    drawn = [m.draw(seeds(1)) for m in made.modules() if isinstance(m, StyledConvolution)]
    assert [tuple(d.shape) for d in drawn] == [(1, 1, n, n) for n in (4, 8, 8, 16, 16)]
    assert (drawn[1] - drawn[2]).abs().max() > 1 and (drawn[3] - drawn[4]).abs().max() > 1


def test_style_mixing():
    made = generator("model.generator.mixing=0.5")
    count, seed = 2000, seeds(2000)
    latent = randomness.normal(seed, (made.latent,), "latent")
    pure = made.eval().map_latent(latent, seed)
    assert torch.equal(pure, pure[:, :1].expand_as(pure))
    mixed = made.train().map_latent(latent, seed)
    same = (mixed == pure).all(dim=2)  # (N, layers)
    assert same[:, 0].all()
    assert not (~same[:, :-1] & same[:, 1:]).any()  # from one layer on to the last
    own = same.sum(dim=1)  # layers with the first latent's w: all 6, or 1 to 5 of them
    shares = torch.bincount(own, minlength=7) / count
    assert shares[6].item() == pytest.approx(0.5, abs=0.04)
    assert all(shares[i].item() == pytest.approx(0.1, abs=0.03) for i in range(1, 6))
    assert torch.equal(made.map_latent(latent), pure)  # not without seeds
    assert torch.equal(generator("model.generator.mixing=0").train().map_latent(latent, seed), pure)


def test_truncation_and_the_average_style():
    made = generator().eval()
    latent = torch.randn(256, made.latent)
    w = made.map_latent(latent)
    for _ in range(1500):
        made.update_w_average(latent, None)
    assert (made.mapping.w_avg - w[:, 0].mean(dim=0)).abs().max() < 1e-2
    before = made.mapping.w_avg.clone()
    made.update_w_average(latent + 1, None)
    wanted = before + 0.005 * (made.map_latent(latent + 1)[:, 0].mean(dim=0) - before)
    assert torch.allclose(made.mapping.w_avg, wanted, atol=1e-6)
    near = made.truncate(w, 0.5, 2)
    assert torch.equal(near[:, 2:], w[:, 2:])
    assert torch.allclose(near[:, :2], (w[:, :2] + made.mapping.w_avg) / 2, atol=1e-6)
    assert torch.allclose(made.truncate(w, 0.0), made.mapping.w_avg.expand_as(w))


def test_the_average_style_follows_training(trainer):
    one = trainer(*PLAIN, model="stylegan2_ada")
    one.iterate()
    average = one.game.generators["G"].mapping.w_avg
    assert average.abs().max() > 0
    assert one.ema.generators["G"].mapping.w_avg.abs().max() > 0


# Minibatch deviation


def test_minibatch_deviation():
    """Groups are as far apart as possible; a batch that a group does not divide has smaller ones."""
    x = torch.randn(8, 3, 2, 2)
    y = minibatch_deviation(x, 4)
    assert torch.equal(y[:, :3], x)
    for i in range(2):
        group = x[i::2]
        wanted = (group.var(dim=0, correction=0) + 1e-8).sqrt().mean()
        assert torch.allclose(y[i::2, 3], wanted.expand(4, 2, 2))
    assert torch.equal(minibatch_deviation(x[:6], 4), minibatch_deviation(x[:6], 3))
    assert minibatch_deviation(x[:1], 4)[:, 3].abs().max() < 1e-3


def test_strided_parts_of_a_batch_keep_its_groups():
    made = game().discriminators["D"]
    images = torch.randn(8, 1, 16, 16)
    whole = made(images)
    assert torch.allclose(whole[::2], made(images[::2]), atol=1e-5)
    assert (whole[:4] - made(images[:4])).abs().max() > 1e-4


def test_without_minibatch_deviation():
    made = game("model.discriminator.stddev_group=0").discriminators["D"]
    images = torch.randn(8, 1, 16, 16)
    assert torch.allclose(made(images)[:4], made(images[:4]), atol=1e-5)


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_two_precisions(dtype):
    """The largest resolutions run in half precision; what comes out is float32, and close."""
    made = game("data.resolution=32", "model.half_resolutions=2", "data.channels=3")
    seen: dict[str, set[torch.dtype]] = {}
    for name, module in made.named_modules():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.setdefault(name, set()).add(
                (output[0] if isinstance(output, tuple) else output).dtype
            )
        )
    seed = seeds(8)
    exact = made.sample(made.generators, seed)
    logits = made.discriminators["D"](exact)
    assert {d for dtypes in seen.values() for d in dtypes} == {torch.float32}
    seen.clear()
    with torch.autocast("cpu", dtype):
        images = made.sample(made.generators, seed)
        half = made.discriminators["D"](exact)
    assert images.dtype == half.dtype == torch.float32
    assert 0 < (images - exact).abs().max() < 0.05 * exact.abs().max()
    assert 0 < (half - logits).abs().max() < 0.05
    low = [f"{player}.{part}" for player, part in (("generators.G", "blocks.b"), ("discriminators.D", "b"))]
    for name, dtypes in seen.items():
        inside = any(name.startswith((f"{start}16.conv", f"{start}32.conv", f"{start}32.skip")) for start in low)
        if inside and "affine" not in name:
            assert dtypes == {dtype}, name
        elif "16" not in name and "32" not in name:
            assert dtypes == {torch.float32}, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_nothing_overflows_in_half_precision(dtype):
    """Weights, w and images a thousand times too large: still finite, and feature maps within the clamp."""
    made = game("data.channels=3", "model.channel_base=1024", "model.channel_max=64")
    largest: list[float] = []
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "conv" in name and "weight" in name:
                parameter.mul_(1000)
    for module in made.modules():
        if isinstance(module, StyledConvolution | Convolution) and module.clamp is not None:
            module.register_forward_hook(lambda m, i, output: largest.append(output.abs().max().item() / m.clamp))
    latent, seed = torch.randn(4, 8), seeds(4)
    with torch.autocast("cpu", dtype):
        images = made.generators["G"](latent, seed)
        logits = made.discriminators["D"](1000 * torch.randn_like(images))
    assert images.isfinite().all() and logits.isfinite().all()
    assert 0.9 < max(largest) <= 1
    gradients = torch.autograd.grad(images.mean(), list(made.generators.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_own_precision_says_what_autocast_would_use():
    cpu = torch.device("cpu")
    with own_precision(cpu) as dtype:
        assert dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        with own_precision(cpu) as dtype:
            assert dtype == torch.bfloat16 and not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


# Training


def test_frozen_layers_stay(trainer):
    """Counted from the image: its layer, two convolutions, the shortcut, ..."""
    one = trainer(*PLAIN, "model.discriminator.freeze=5", "optimizer.D.lr=1.0", model="stylegan2_ada")
    network = one.game.discriminators["D"]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(2):
        one.iterate()
    still = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    layers = {name.rpartition(".")[0] for name in still}
    assert layers == {"b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0"}


def test_micro_batches_equal_the_whole_batch(trainer):
    """With path lengths of half the batch, mixing, noise and groups of images."""
    lazy = ("regularizer.r1_stylegan.every=2", "regularizer.path_length.every=1", "optimizer.G.lr=0.1")
    whole, parts = (trainer(*PLAIN, *lazy, f"micro_batch={n}", model="stylegan2_ada") for n in (8, 4))
    for one in (whole, parts):
        for _ in range(3):
            one.iterate()
    assert largest_difference(whole.game.state_dict(), parts.game.state_dict()) < 1e-5
    assert largest_difference(whole.regularizers.state_dict(), parts.regularizers.state_dict()) < 1e-6
    assert whole.regularizers["path_length"].mean > 0


def test_a_resumed_run_is_the_same_bit_for_bit(trainer):
    """With ADA that moves, path lengths and mixing."""
    lazy = ("regularizer.r1_stylegan.every=3", "regularizer.path_length.every=2")
    ada = ("augment.ada.p=0.5", "augment.ada.speed=1", "augment.ada.interval=2")
    one, other = (trainer(*lazy, *ada, model="stylegan2_ada") for _ in range(2))
    for _ in range(3):
        one.iterate()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for _ in range(4):
        one.iterate()
        other.iterate()
    assert_equal(one.state_dict(), other.state_dict())
    assert one.readings()["ada/p"] not in (0, 0.5) and one.regularizers["path_length"].mean > 0


class Linear(Generator):
    """Images are a matrix times w."""

    latent = 3

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.randn(2 * 5 * 5, 3))

    def synthesis(self, w: torch.Tensor, seed: torch.Tensor | None = None) -> torch.Tensor:
        return (w @ self.matrix.T).view(-1, 2, 5, 5)


def test_path_length_of_a_linear_generator():
    """|A' y| for noise y of mean square 1 / pixels, of the first half of the batch; and it is differentiable."""
    torch.manual_seed(0)
    made = Linear()
    game = LatentGame(made, torch.nn.Identity(), build.Chain())
    (duel,) = game.duels({"real": torch.zeros(5, 2, 5, 5), "seed": seeds(5)}, game.generators)
    penalty = PathLength(decay=0.25, share=0.5)
    penalty.mean.fill_(0.7)
    value, statistics = penalty(duel)
    noise = randomness.normal(seeds(5)[:3], (2, 5, 5), "path length") / 5
    lengths = (noise.flatten(1) @ made.matrix).norm(dim=1)
    assert value.item() == pytest.approx((lengths - 0.7).square().mean().item(), rel=1e-5)
    assert statistics["length"].item() == pytest.approx(lengths.mean().item(), rel=1e-5)
    (lengths - 0.7).square().mean().backward()
    wanted, made.matrix.grad = made.matrix.grad, None
    value.backward()
    assert torch.allclose(made.matrix.grad, wanted, atol=1e-5)
    penalty.adapt({"length": torch.tensor(1.7)})
    assert penalty.mean.item() == pytest.approx(0.95)


def test_path_lengths_leave_running_statistics_alone(trainer):
    one = trainer("regularizer=[path_length]", "regularizer.path_length.every=2")
    buffers = lambda: {n: b.clone() for n, b in one.game.generators.named_buffers()}  # noqa: E731
    player = one.players["G"]
    before = buffers()
    one.run(Move(player.phases[1], player, one.draw(one.turns.order[-1])))
    assert_equal(before, buffers())
    one.run(Move(player.phases[0], player, one.draw(one.turns.order[-1]), new=True))
    assert largest_difference(before, buffers()) > 0  # which were on, and are so again


@pytest.mark.parametrize(
    ("model", "overrides", "message"),
    [
        (
            "stylegan2_ada",
            ["regularizer.path_length.player=D"],
            "regularizer.path_length.player=D: path lengths are G's",
        ),
        ("dcgan", ["regularizer=[path_length]", "regularizer.path_length.fn.share=0"], "share=0 must be above 0"),
    ],
)
def test_path_lengths_that_cannot_be(trainer, model, overrides, message):
    with pytest.raises(UserError, match=message):
        trainer(*overrides, model=model)


@pytest.mark.parametrize("group", [0, 2, 4, 3])
def test_reals_and_fakes_in_one_pass_are_judged_as_in_two(group):
    """Groups of minibatch deviation stay among themselves, with their labels; 3 does not divide the batch."""
    pairs = []
    for together in (None, 0):
        made = game("model.classes=3", f"model.discriminator.stddev_group={group}")
        discriminator = made.discriminators["D"]
        calls: list[int] = []
        discriminator.register_forward_hook(lambda module, inputs, output, calls=calls: calls.append(len(output)))
        discriminator.group_size = discriminator.group_size if together is None else together
        augmented = AugmentedDiscriminator(discriminator, made.chains[""], seeds(8), torch.arange(8) % 3)
        pairs.append((augmented, calls))
    real, fake = (torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    (joint, once), (separate, twice) = pairs
    for a, b in zip(joint.both(real, fake), separate.both(real, fake), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert once == ([8, 8] if group == 3 else [16]) and twice == [8, 8]
