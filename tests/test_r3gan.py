"""R3GAN: reference numbers, published sizes, its initialisation, its precision, and labels."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from check_reference import differences
from conftest import MODELS
from torch.nn.functional import conv2d, leaky_relu

from ganduel import build
from ganduel.clock import Clock, Duration
from ganduel.config.compose import compose
from ganduel.game import LatentGame
from ganduel.models.r3gan import Block, transition
from ganduel.system.errors import UserError

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "r3gan_res16.npz"
SMALL = MODELS["r3gan"]


def game(*overrides: str) -> LatentGame:
    composed = compose("train", [*SMALL, *overrides])
    torch.manual_seed(0)
    made = build.game(composed.model, {}, [])
    assert isinstance(made, LatentGame)
    return made


def awake(made: LatentGame) -> LatentGame:
    """With random numbers in place of the zeros that the networks begin with."""
    with torch.no_grad():
        for parameter in made.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return made


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"the reference numbers are not in {REFERENCE}")
def test_reference_numbers():
    """Outputs, losses, penalties and all gradients, with and without labels."""
    found = differences(str(REFERENCE))
    assert {"out/fake", "out/r1", "cond/out/r2", "cond/grad_D/EmbeddingLayer.weight"} <= found.keys()
    assert sum("grad_" in key for key in found) == 138
    assert all(relative < 1e-5 for _, relative in found.values())


# preset -> parameters of G and of D, batch, half of gamma, half-life in kimg, p, length of the schedules in kimg
PUBLISHED = {
    "cifar10": (20_781_952, 21_280_512, 512, 0.025, 5000, 0.55, 20_000),
    "ffhq64": (22_429_824, 22_381_440, 256, 1.0, 500, 0.3, 20_000),
    "ffhq256": (23_057_952, 23_009_568, 256, 75.0, 500, 0.3, 20_000),
    "imagenet32": (82_914_304, 86_548_992, 4096, 0.25, 50_000, 0.5, 200_000),
    "imagenet64": (103_570_432, 107_205_120, 4096, 0.5, 50_000, 0.4, 200_000),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets(name):
    """Sizes, and where every schedule begins, is in its middle, and ends."""
    of_g, of_d, batch, weight, half_life, p, kimg = PUBLISHED[name]
    composed = compose("train", [f"experiment={name}_r3gan", "data.root=data"])
    assert (composed.batch_size, composed.turns["reals"]) == (batch, "next")
    with torch.device("meta"):
        made = build.game(composed.model, {}, [])
    assert [sum(p.numel() for p in n.parameters()) for n in (made.generators, made.discriminators)] == [of_g, of_d]
    own = {
        "optimizer.D.lr": composed.optimizer["D"]["lr"],
        "optimizer.D.beta2": composed.optimizer["D"]["betas"][1],
        "regularizer.r1.weight": composed.regularizer["r1"]["weight"],
        "regularizer.r2.weight": composed.regularizer["r2"]["weight"],
        "augment.ada.p": composed.augment["ada"]["p"],
        "ema.half_life": Duration.parse(composed.ema.half_life, "").amount,
    }
    schedules = build.schedules(composed.scheduler, composed.schedule, [])
    assert schedules.keys() == own.keys() | {"optimizer.G.lr", "optimizer.G.beta2"}
    ends = [(2e-4, 5e-5), (0.9, 0.99), (weight, weight / 10), (weight, weight / 10), (0, p), (0, half_life)]
    for share in (0, 0.5, 1, 2):
        clock = Clock(batch, 1, 1, images_seen=int(1000 * kimg * share))
        found = [schedules[key](clock, value) for key, value in own.items()]
        assert found == pytest.approx([a + (b - a) * min(share, 1) for a, b in ends])


def test_cifar10_without_labels():
    composed = compose("train", ["experiment=cifar10_r3gan", "model.classes=0", "data.root=data"])
    of_g, of_d = 20_732_160, 20_683_776
    with torch.device("meta"):
        made = build.game(composed.model, {}, [])
    assert [sum(p.numel() for p in n.parameters()) for n in (made.generators, made.discriminators)] == [of_g, of_d]


def test_a_block_is_what_the_paper_says():
    """x + W3 lrelu(W2 lrelu(W1 x + b1) + b2), the middle one in two groups: here with plain functions."""
    torch.manual_seed(0)
    block, x = Block(4, group=4, blocks=2), torch.randn(3, 4, 5, 5)
    assert torch.equal(block(x), x)  # at the start
    w1, b1, w2, b2, w3 = block.parameters()
    assert [tuple(w.shape) for w in (w1, w2, w3)] == [(8, 4, 1, 1), (8, 4, 3, 3), (4, 8, 1, 1)]
    with torch.no_grad():
        for parameter in (b1, b2, w3):
            parameter.normal_()
    inner = leaky_relu(conv2d(x, w1, b1), 0.2)
    halves = [conv2d(part, w, padding=1) for part, w in zip(inner.chunk(2, 1), w2.chunk(2), strict=True)]
    inner = leaky_relu(torch.cat(halves, 1) + b2[:, None, None], 0.2)
    assert torch.allclose(block(x), x + conv2d(inner, w3), atol=1e-5)


@pytest.mark.parametrize("up", [True, False])
def test_a_change_of_size_keeps_a_plain_picture(up):
    """Away from the edges, whose neighbours are 0. Maps change their number at the smaller size."""
    picture = torch.full((1, 4, 16, 16), 3.0)
    changed = transition(4, 4, up=up)(picture)
    assert changed.shape[2:] == ((32, 32) if up else (8, 8))
    assert torch.allclose(changed[..., 4:-4, 4:-4] if up else changed[..., 2:-2, 2:-2], torch.tensor(3.0))
    other = transition(4, 6, up=up)
    assert [type(layer).__name__ for layer in other] == (["Conv2d", "Resample"] if up else ["Resample", "Conv2d"])


def test_initialisation():
    """Standard deviations of gain / sqrt(inputs). Inside blocks the gain is sqrt(2 / 1.04) / blocks^(1/4)."""
    made = game(
        "model.channel_base=2048", "model.channel_max=128", "model.latent=128", "model.classes=100", "model.group=16"
    )
    inside = math.sqrt(2 / 1.04) / 6**0.25
    expected = {
        "G.stages.4.0.layers.0.weight": inside / math.sqrt(128),
        "G.stages.4.0.layers.2.weight": inside / math.sqrt(16 * 9),
        "G.stages.4.0.layers.4.weight": 0,
        "G.stages.4.0.layers.1.bias": 0,
        "G.output.weight": 1 / math.sqrt(128),
        "G.dense.weight": 1 / math.sqrt(256),
        "G.basis": 1,
        "G.embedding.weight": 1 / 10,
        "D.basis": 1 / 4,
        "D.dense.weight": 1 / math.sqrt(128),
        "D.embedding.weight": 1 / 10 / math.sqrt(128),
    }
    both = {f"{name}.{key}": p for name in "GD" for key, p in network(made, name).named_parameters()}
    for key, std in expected.items():
        assert both[key].std().item() == pytest.approx(std, rel=0.12), key


def test_the_first_weights_of_a_block():
    """Of so many weights that their standard deviations are within a hundredth of those of the paper."""
    torch.manual_seed(0)
    for blocks in (1, 16):
        w1, _, w2, _, _ = Block(256, group=16, blocks=blocks).parameters()
        gain = math.sqrt(2 / 1.04) / blocks**0.25
        assert w1.std().item() == pytest.approx(gain / math.sqrt(256), rel=0.01)
        assert w2.std().item() == pytest.approx(gain / math.sqrt(16 * 9), rel=0.01)


def network(made: LatentGame, name: str) -> Any:
    return (made.generators if name == "G" else made.discriminators)[name]


def test_without_biases_both_networks_are_homogeneous():
    """No normalisation and no squashing is left anywhere: twice the input, twice the output."""
    made = awake(game("data.channels=3"))
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    latent, images = torch.randn(2, 8), torch.randn(2, 3, 16, 16)
    assert torch.allclose(network(made, "G")(2 * latent), 2 * network(made, "G")(latent), rtol=1e-4, atol=1e-5)
    assert torch.allclose(network(made, "D")(2 * images), 2 * network(made, "D")(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256, 512, 1024])
def test_every_size(resolution, channels):
    thin = (f"model.channel_base={resolution}", "model.channel_max=2", "model.group=1", "model.blocks=1")
    made = game(f"data.resolution={resolution}", f"data.channels={channels}", *thin)
    images = made.sample(made.generators, torch.arange(1))
    assert images.shape == (1, channels, resolution, resolution)
    assert network(made, "D")(images).shape == (1,)


def test_the_smallest_stage_runs_in_float32():
    made = awake(game())
    seen: dict[str, torch.dtype] = {}

    def remember(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output.dtype)

    for name, module in made.named_modules():
        if isinstance(module, Block):
            module.register_forward_hook(remember(name))
    latent = torch.randn(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(made, "D")(network(made, "G")(latent))
    assert len(seen) == 12
    for name, dtype in seen.items():
        assert dtype == (torch.float32 if ".stages.4." in name else torch.bfloat16), name
    assert half.dtype == torch.float32
    assert torch.allclose(half, network(made, "D")(network(made, "G")(latent)), rtol=0.1, atol=0.1)


def test_labels_reach_both_networks():
    made = awake(game("model.classes=3"))
    latent, images, label = torch.randn(4, 8), torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 0])
    other = (label + 1) % 3
    for given, name in ((latent, "G"), (images, "D")):
        one = network(made, name)
        first, second = (
            (one(given, label), one(given, other))
            if name == "D"
            else (one(given, None, label), one(given, None, other))
        )
        assert (first - second).flatten(1 if first.ndim > 1 else 0).abs().max() > 0
        with pytest.raises(ValueError, match="needs the images' labels"):
            one(given)
    judge = network(made, "D")
    whole = judge(images, label)
    with torch.no_grad():
        judge.embedding.weight[0] = 0
        judge.embedding.weight[1:] *= 3
    assert torch.allclose(judge(images, label), torch.tensor([0.0, 3, 3, 0]) * whole, rtol=1e-4)  # an inner product


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.resolution=28", "resolution=28 must be a power of two from 16 to 1024"),
        ("model.group=5", "group=5 must divide 16"),
        ("model.blocks=0", "blocks=0 must be at least 1"),
        ("model.classes=-1", "classes=-1 at least 0"),
    ],
)
def test_settings_that_cannot_be(override, message):
    with pytest.raises(UserError, match=message):
        game(override)
