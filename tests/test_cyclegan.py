"""CycleGAN: its networks, one iteration by hand, the pool of older fakes, what a run shows and measures."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import MODELS, TINY, assert_equal, largest_difference, rows, state
from PIL import Image
from processes import together
from torch import nn

from ganduel import build, randomness
from ganduel.commands import cli
from ganduel.data.image_set import normalise, to_bytes
from ganduel.data.store import Raw
from ganduel.models.cyclegan import ImagePool, InstanceNorm, PatchDiscriminator, ResNetGenerator, UNetGenerator
from ganduel.validation import validate

PAPER = {"image_channels": 3, "channels": 64, "norm": "instance", "dropout": 0.0}
RESNET = {**PAPER, "blocks": 9, "neck": 0, "padding": "reflect"}
PATCH = {**PAPER, "resolution": 256, "depth": 3, "norm_first": False}
# Adam would make steps of rounding errors, for a bias in front of a normalisation has no gradient; and where absolute
# differences change sign, or maps are normalised that hardly vary, small differences grow with every step.
SMOOTH = ("optimizer=sgd", "optimizer.G.lr=1e-5", "optimizer.D.lr=1e-4")


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameters_are_as_many_as_the_papers():
    with torch.device("meta"):
        assert count(ResNetGenerator(**RESNET)) == 11_378_179
        assert count(PatchDiscriminator(**PATCH)) == 2_764_737
        # Report R4's 3x3 convolution in front of the blocks; what is normalised has no parameters more.
        assert count(ResNetGenerator(**{**RESNET, "neck": 1, "padding": "zeros"})) == 11_378_179 + 256 * (9 * 256 + 1)
        assert count(PatchDiscriminator(**{**PATCH, "norm_first": True})) == 2_764_737
        patches = PatchDiscriminator(**PATCH)(torch.empty(1, 3, 256, 256)).shape
        assert patches == (1, 1, 30, 30)


def test_a_patch_is_70_pixels_wide():
    """One logit depends on 70x70 pixels."""
    judge = PatchDiscriminator(**{**PATCH, "channels": 1, "norm": "none", "resolution": 128})
    nn.init.uniform_(judge.layers[0].weight, 0.5, 1)
    images = torch.zeros(1, 3, 128, 128, requires_grad=True)
    judge(images)[0, 0, 7, 7].backward()
    seen = images.grad[0].abs().sum(0)
    assert [int((seen.sum(dim) > 0).sum()) for dim in (0, 1)] == [70, 70]


@pytest.mark.parametrize(("padding", "mode"), [("reflect", "reflect"), ("zeros", "constant")])
def test_the_resnet_generator_by_hand(padding, mode):
    """Layer by layer from its weights, with PyTorch's own instance normalisation."""
    network = ResNetGenerator(**{**RESNET, "channels": 2, "blocks": 1, "neck": 1, "padding": padding})
    images = torch.randn(2, 3, 16, 16)
    weights = iter(network.parameters())

    def convolution(x, pad, **settings):
        return F.conv2d(F.pad(x, (pad,) * 4, mode), next(weights), next(weights), **settings)

    def doubled(x):
        return F.conv_transpose2d(x, next(weights), next(weights), stride=2, padding=1, output_padding=1)

    def rectified(x):
        return F.instance_norm(x).relu()

    x = rectified(convolution(images, 3))
    for _ in range(2):
        x = rectified(F.conv2d(x, next(weights), next(weights), stride=2, padding=1))
    x = convolution(x, 1)  # bare, as report R4 prints it
    x = x + F.instance_norm(convolution(rectified(convolution(x, 1)), 1))
    x = rectified(doubled(rectified(doubled(x))))
    assert torch.allclose(network(images), convolution(x, 3).tanh(), atol=1e-5)
    assert network.layers[0].weight.std().item() == pytest.approx(0.02, rel=0.3) and not network.layers[0].bias.any()


@pytest.mark.parametrize(("resolution", "parameters"), [(256, 54_409_603), (128, 41_825_667)])
def test_the_unet(resolution, parameters):
    """Down to one pixel; biases beside the weights, for instance normalisation has neither."""
    settings = {**PAPER, "resolution": resolution}
    with torch.device("meta"):
        network = UNetGenerator(**settings)
        sizes = []
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(lambda _, __, output: sizes.append((output.shape[1], output.shape[2])))
        assert network(torch.empty(1, 3, resolution, resolution)).shape == (1, 3, resolution, resolution)
    widths = [64, 128, 256, 512, 512, 512, 512, 512][: len(sizes)]
    assert sizes == [(width, resolution >> (i + 1)) for i, width in enumerate(widths)] and sizes[-1][1] == 1
    downs = list(zip([3, *widths], widths, strict=False))
    ups = [(2 * width, before) for before, width in downs[:-1]] + [(widths[-1], downs[-1][0])]
    assert count(network) == sum((16 * a + 1) * b for a, b in (*downs, *ups)) == parameters
    dropouts = [
        m for m in UNetGenerator(**{**settings, "channels": 2, "dropout": 0.5}).modules() if type(m) is nn.Dropout
    ]
    assert len(dropouts) == len(sizes) - 5


def test_the_unet_sees_every_size_twice():
    network = UNetGenerator(**{**PAPER, "resolution": 16, "channels": 2})
    images = torch.randn(1, 3, 32, 48)
    assert network(images).shape == images.shape  # other multiples as well
    with pytest.raises(ValueError, match=r"resolution=24 is not allowed; .* set data.resolution=32"):
        UNetGenerator(**{**PAPER, "resolution": 24})


def test_dropout_lies_inside_the_blocks():
    network = ResNetGenerator(**{**RESNET, "channels": 2, "dropout": 0.5})
    assert sum(type(m) is nn.Dropout for m in network.modules()) == 9
    images = torch.randn(1, 3, 16, 16)
    assert not torch.equal(network(images), network(images))


@pytest.mark.parametrize("kind", ["batch", "layer", "none"])
def test_other_norms(kind):
    images = torch.randn(2, 3, 32, 32)
    assert ResNetGenerator(**{**RESNET, "channels": 2, "blocks": 1, "norm": kind})(images).shape == images.shape
    PatchDiscriminator(**{**PATCH, "channels": 2, "norm": kind})(images).sum().backward()


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_instance_norm(format):
    images = (3 * torch.randn(3, 4, 5, 6) + 7).to(memory_format=format).requires_grad_()
    expected = F.instance_norm(images)
    assert torch.allclose(InstanceNorm()(images), expected, atol=1e-5)
    weights = torch.randn(3, 4, 5, 6)
    (a,), (b,) = (torch.autograd.grad((x * weights).sum(), images) for x in (InstanceNorm()(images), expected))
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("resolution", [8, 16, 20])
def test_patches_need_room(resolution):
    with pytest.raises(ValueError, match=f"resolution={resolution} is too small for depth=3; set data.resolution=24"):
        PatchDiscriminator(**{**PATCH, "resolution": resolution})


VARIANTS = {
    "paper": ((), 0.5),
    "report": (
        (
            "loss.discriminator=5",
            "model.pool_size=0",
            "model.generator.neck=1",
            "model.generator.padding=zeros",
            "model.discriminator.norm_first=true",
            "optimizer.G.lr=1e-4",
        ),
        5.0,
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_iteration_by_hand(trainer, variant):
    """G first: its two adversarial terms, two of the cycle and two of identity; then D on the same fakes."""
    overrides, factor = VARIANTS[variant]
    one = trainer("batch_size=1", *overrides, model="cyclegan")
    g, d = copy.deepcopy(one.game.generators), copy.deepcopy(one.game.discriminators)
    movers = {"G": torch.optim.Adam(g.parameters(), betas=(0.5, 0.999), lr=1e-4 if variant == "report" else 2e-4)}
    movers["D"] = torch.optim.Adam(d.parameters(), betas=(0.5, 0.999), lr=2e-4)
    batch = one.images.batch(0, 1)
    a, b = batch["A"], batch["B"]
    fake_a, fake_b = g["B2A"](b), g["A2B"](a)
    terms = {
        "G_A": ((d["D_A"](fake_a) - 1) ** 2).mean(),
        "G_B": ((d["D_B"](fake_b) - 1) ** 2).mean(),
        "cycle_A": 10 * (g["B2A"](fake_b) - a).abs().mean(),
        "cycle_B": 10 * (g["A2B"](fake_a) - b).abs().mean(),
        "identity_A": 5 * (g["B2A"](a) - a).abs().mean(),
        "identity_B": 5 * (g["A2B"](b) - b).abs().mean(),
    }
    total = sum(terms.values())
    total.backward()
    movers["G"].step()
    movers["D"].zero_grad()
    for name, real, fake in (("A", a, fake_a), ("B", b, fake_b)):
        judge = d[f"D_{name}"]
        terms[f"D_{name}"] = factor * (((judge(real) - 1) ** 2).mean() + (judge(fake.detach()) ** 2).mean())
        terms[f"D_{name}"].backward()
    movers["D"].step()

    one.iterate()
    means = one.stats.means()
    losses = {name: value for name, value in means.items() if name.startswith("loss/")}
    assert losses == pytest.approx({f"loss/{name}": value.item() for name, value in terms.items()}, abs=1e-6)
    assert means["total/G"] == pytest.approx(total.item(), rel=1e-6)
    for own, by_hand in ((one.game.generators, g), (one.game.discriminators, d)):
        weights = [
            {k: v for k, v in network.state_dict().items() if k.endswith("weight")} for network in (own, by_hand)
        ]
        assert largest_difference(*weights) < 1e-6


def test_terms_of_weight_0_cost_nothing(trainer):
    calls = []
    for overrides in ((), ("model.identity=0",), ("model.identity=0", "model.cycle=0")):
        one = trainer(*overrides, model="cyclegan")
        made = []
        for generator in one.game.generators.values():
            generator.register_forward_hook(lambda *_, made=made: made.append(1))
        one.iterate()
        calls.append(len(made))
    assert calls == [4, 4, 2]  # cycle and identity in one pass; D's turn makes none of its own


def reference(pool: list, size: int, fake: int, older: bool, place: int) -> int:
    """What is met instead of a fake."""
    if len(pool) < size:
        pool.append(fake)
        return fake
    if not older:
        return fake
    met, pool[place] = pool[place], fake
    return met


def test_replay(trainer):
    """Against a list, over parts of any length: the first fakes themselves, then half of the time older ones."""
    fakes, seed = torch.arange(400.0).view(-1, 1, 1, 1), randomness.seeds(5, first=0, count=400)
    draws = randomness.uniform(seed, (2,), "replay")
    pool: list[int] = []
    expected = [reference(pool, 50, i, bool(coin < 0.5), int(place * 50)) for i, (coin, place) in enumerate(draws)]
    one, met = ImagePool(50, (1, 1, 1)), []
    for part in (slice(0, 7), slice(7, 8), slice(8, 100), slice(100, 400)):
        met += one(fakes[part], seed[part]).flatten().tolist()
    assert met == expected and one.images.flatten().tolist() == pool and one.count == 50
    assert met[:50] == list(range(50))
    older = sum(value < i for i, value in enumerate(met))
    assert 130 < older < 220  # of 350, half: five standard deviations


def test_older_fakes_meet_d_alone(trainer):
    """In D's turn, once the pool is full; validation and G see new ones."""
    one = trainer("batch_size=4", "model.pool_size=4", model="cyclegan")
    met: list = []
    judge = one.game.discriminators["D_A"]
    judge.register_forward_hook(lambda _, inputs, __: met.append(inputs[0].clone()))
    for _ in range(4):
        one.iterate()
    assert [len(images) for images in met] == [4, 8] * 4  # G on fakes; D on reals and fakes
    assert torch.equal(met[0], met[1][4:])
    later = [(met[i], met[i + 1][4:]) for i in (2, 4, 6)]
    replaced = sum(not torch.equal(a, b) for new, old in later for a, b in zip(new, old, strict=True))
    assert 0 < replaced < 12
    before = copy.deepcopy(one.game.state_dict())
    validate(one)
    assert_equal(dict(one.game.state_dict()), dict(before))


def test_a_resumed_run_meets_the_same_fakes(trainer):
    one, other = (trainer("batch_size=4", model="cyclegan") for _ in range(2))
    for _ in range(4):
        one.iterate()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for trained in (one, other):
        trained.iterate()
    assert_equal(one.state_dict(), other.state_dict())
    assert int(one.game.pools["_A"].count) == 10


def test_micro_batches_equal_the_whole_batch(trainer):
    chosen = (*SMOOTH, "regularizer=[r1]", "regularizer.r1.every=2", "augment=[affine]")
    whole, parts = (trainer(*chosen, f"micro_batch={micro}", model="cyclegan") for micro in (8, 2))
    for one in (whole, parts):
        for _ in range(3):
            one.iterate()
    assert int(whole.game.pools["_B"].count) == 10
    assert largest_difference(whole.game.state_dict(), parts.game.state_dict()) < 1e-5
    assert largest_difference(whole.ema.generators.state_dict(), parts.ema.generators.state_dict()) < 1e-5


@pytest.fixture
def arguments(packed, tmp_path, monkeypatch) -> list[str]:
    """Of gan-train, for a tiny run in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return [*TINY, packed, *MODELS["cyclegan"]]


@pytest.mark.slow
def test_two_processes_equal_one(arguments):
    """The pool of older fakes included, whole in either."""
    arguments += [*SMOOTH, "duration=6 steps"]
    assert cli.command("train", [*arguments, "name=one"]) == 0
    result = together(2, *arguments, "name=two")
    assert result.returncode == 0, result.stderr
    one, two = state("runs/one")["state"], state("runs/two")["state"]
    assert int(two["game"]["pools._A.count"]) == 10
    assert largest_difference(one["game"], two["game"]) < 1e-5
    for a, b in zip(rows("runs/one"), rows("runs/two"), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-4)


def test_what_a_run_leaves(arguments, capsys):
    """Pictures in eight columns, all losses by name."""
    assert cli.command("train", [*arguments, "duration=2 steps", "every.log=1 steps"]) == 0
    run = Path("runs/tiny")
    with Image.open(run / "samples" / "000000.000kimg.png") as image:
        assert image.size == (8 * 26 + 2, 4 * 26 + 2)  # four test images of B
    with Image.open(run / "samples" / "reals.png") as image:
        assert image.size == (5 * 26 + 2, 5 * 26 + 2)  # twelve and ten
    names = {name for name in rows(run)[-1] if name.startswith(("loss/", "total/"))}
    sides = {f"loss/{what}_{domain}" for what in ("G", "D", "cycle", "identity") for domain in "AB"}
    assert names == sides | {"total/G"}
    capsys.readouterr()
    assert cli.command("sample", [f"ckpt={run}"]) == 1
    assert capsys.readouterr().err == (
        "error: runs/tiny/checkpoints/latest.pt: model=cyclegan translates images and makes none from noise: "
        "mode=translate input=PHOTO_OR_FOLDER direction=A2B\n"
    )


def test_images_are_packed_with_their_margin(trainer):
    sides = trainer(model="cyclegan").images.sides.values()
    assert all(side.store.shape == (3, 27, 27) and side.shape == (3, 24, 24) for side in sides)  # 11.7 % more


def test_images_are_tested_whole(trainer):
    """As the authors do: what is shown and measured has its edges, and is what Pillow makes of all that is packed."""
    one = trainer(model="cyclegan")
    sides = one.images.sides
    pixels = torch.randint(80, 120, (31, 3, 27, 27), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    framed = torch.full_like(pixels, 220)  # by one bright pixel, which the middle lacks
    framed[:, :, 1:-1, 1:-1] = pixels[:, :, 1:-1, 1:-1]
    for side in sides.values():
        side.store = Raw(framed)
        assert side.gather(side.tested).max() < 120 and side.validation_batch(0, 2)["real"].max() < 0
    maps = [Image.fromarray(x).resize((24, 24), Image.Resampling.LANCZOS) for x in framed.flatten(0, 1).float().numpy()]
    expected = torch.from_numpy(np.stack(maps)).view(31, 3, 24, 24)
    frame = torch.nn.functional.pad(torch.zeros(22, 22, dtype=torch.bool), (1, 1, 1, 1), value=True)
    assert expected[..., frame].min() > 190 and expected[..., ~frame].max() < 135

    def error(images: torch.Tensor, numbers: torch.Tensor) -> float:
        return float((images.float() - expected[numbers]).abs().max())

    one.game.generators["A2B"] = one.game.generators["B2A"] = nn.Identity()
    for compared, other in zip(one.game.comparisons(one.game.generators, one.images), "BA", strict=True):
        assert error(compared.images.gather(compared.real), compared.real) < 1.5
        translated = sides[other].tested
        assert error(to_bytes(compared.make(range(len(translated)), 0)), translated) < 1.5
    shown, columns = one.game.show(one.game.generators, one.images, 3)
    for first, side in ((0, sides["A"]), (4, sides["B"])):
        assert error(to_bytes(shown[first::columns]), side.tested[:4]) < 1.5


def test_the_eight_columns(trainer):
    one = trainer(model="cyclegan")
    made, columns = one.game.show(one.game.generators, one.images, 3)
    assert columns == 8 and made.shape == (32, 3, 24, 24)
    a2b, b2a = (one.game.generators[name] for name in ("A2B", "B2A"))
    with torch.no_grad():
        for side, first, there, back in (("A", 0, a2b, b2a), ("B", 4, b2a, a2b)):
            side = one.images.sides[side].wholes()
            real = normalise(side.gather(side.validation[:4]))
            for i, expected in enumerate((real, back(real), there(real), back(there(real)))):
                assert torch.allclose(made[first + i :: 8], expected, atol=1e-6)


@pytest.fixture
def features(compose) -> list[str]:
    """A classifier of digits as the features of images that are none."""
    from ganduel.data.loading import open_images
    from ganduel.data.prepare import prepare
    from ganduel.evaluation.extractors import find_features

    data = compose().data
    digits = open_images(prepare(data, 1, build.source(data, [])), data, seed=0, device=torch.device("cpu"))
    weights = find_features("digits", None, digits, Path(data.packed)).weights
    return ["metric.features=digits", f"metric.weights={weights}"]


@pytest.mark.slow
def test_both_directions_are_measured(arguments, features, capsys):
    arguments.remove("metric.which=[]")
    assert cli.command("train", [*arguments, "duration=2 steps", *features]) == 0
    (row, *_) = measured = rows("runs/tiny", "metrics.jsonl")
    for value in ("fid", "kid", "kid_std"):
        assert row[value] == pytest.approx((row[f"{value}_A"] + row[f"{value}_B"]) / 2)
    assert (row["generated_A"], row["real_A"], row["generated_B"], row["real_B"]) == (4, 5, 5, 4)
    best = min(measured, key=lambda row: row["fid"])
    assert state("runs/tiny", "best")["best"]["step"] == best["step"]
    capsys.readouterr()
    which = "metric.which=[fid,kid]"
    assert cli.command("fid", ["ckpt=runs/tiny/checkpoints/latest.pt", which, *features, "json=true"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {k: again[k] for k in ("fid_A", "fid_B", "kid_A")} == pytest.approx(
        {k: measured[-1][k] for k in ("fid_A", "fid_B", "kid_A")}, rel=1e-4
    )
    for word in ("fid_A ", "kid_B ", "4 generated against 5 real images", "mean fid ", "digits-", "ema true"):
        assert word in again["text"], word


def test_fid_compares_translations_of_b_with_a(trainer):
    """Real images of A "translated" by a generator that paints one of them are measured as such."""
    one = trainer(model="cyclegan")
    first, second = one.game.comparisons(one.game.generators, one.images)
    assert (first.name, first.most, len(first.real)) == ("_A", 4, 5) and first.images.train is one.images.sides[
        "A"
    ].train
    assert (second.name, second.most, len(second.real)) == ("_B", 5, 4)
    side = one.images.sides["B"].wholes()
    with torch.no_grad():
        expected = one.game.generators["B2A"](normalise(side.gather(side.validation[1:3])))
    assert torch.allclose(first.make(range(1, 3), 0), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data=digits",), "data=digits has one domain, and the model translates"),
        (("data.resolution=16",), "data.resolution=24 or more"),
        (("model.cycle=-1",), "cycle=-1, identity=5.0 and pool_size=10 must be 0 or more"),
        (("model.pool_size=-1",), "pool_size=-1"),
    ],
)
def test_bad_settings(arguments, capsys, overrides, message):
    keys = {override.partition("=")[0] for override in overrides}
    arguments = [argument for argument in arguments if argument.partition("=")[0] not in keys]
    assert cli.command("train", [*arguments, *overrides]) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and message in error
