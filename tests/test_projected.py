"""Projected GAN: sizes as published, mixing and judging by other means, and a network that nothing changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MODELS, TINY, assert_equal, state
from torch import Tensor, nn
from torch.nn import functional as F

from ganduel import checkpoint
from ganduel.commands import cli
from ganduel.commands.train import with_features
from ganduel.config.compose import compose as compose_config
from ganduel.config.keys import config_dir
from ganduel.evaluation import extractors
from ganduel.models.efficientnet import pretrained
from ganduel.models.fastgan import Generator, widths
from ganduel.models.frozen import Pretrained, check_same_frozen, synchronise_batch_norm
from ganduel.models.projected import Discriminator, Judge, Mixing
from ganduel.runs.folder import RunFolder
from ganduel.system.errors import UserError
from ganduel.trainer import Trainer

FASTGAN = {"image_channels": 3, "latent": 16, "classes": 0, "channels": 4, "lite": False, "excitation": 16}


class Pools(nn.Module):
    """A frozen network of one convolution and average pools, whose features one can compute by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Conv2d(3, 5, 1, bias=False)
        nn.init.normal_(self.colours.weight)

    def levels(self, images: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(self.colours(images), stride).tanh() for stride in (4, 8, 16, 32)]


class Normed(Pools):
    """The same behind batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def levels(self, images: Tensor) -> list[Tensor]:
        return super().levels(self.norm(images))


def fastgan(resolution: int = 64, **settings: Any) -> Generator:
    torch.manual_seed(0)
    return Generator(resolution=resolution, **{**FASTGAN, "spectral_norm": True, **settings})


def discriminator(**settings: Any) -> Discriminator:
    torch.manual_seed(0)
    given = {"resolution": 32, "image_channels": 3, "classes": 0, "network": Pools(), "input": 64, "channel_max": 16}
    return Discriminator(**{**given, **settings})


def test_the_levels_have_the_published_shapes() -> None:
    """Maps of lite0, channels after mixing, and 5x5 logits a level, at 256 pixels."""
    d = discriminator(resolution=256, network=pretrained("efficientnet"), input=224, channel_max=512)
    images = torch.rand(2, 3, 256, 256) * 2 - 1
    levels = d.features.levels(images)
    assert [(x.shape[1], x.shape[2]) for x in levels] == [(24, 64), (40, 32), (112, 16), (320, 8)]
    mixed = d.mixing(levels)
    assert [(x.shape[1], x.shape[2]) for x in mixed] == [(64, 128), (64, 64), (128, 32), (256, 16)]
    assert [tuple(judge(x, None).shape) for judge, x in zip(d.judges, mixed, strict=True)] == [(2, 5, 5)] * 4
    assert d(images).shape == (2, 100)
    chain = [[layer.out_channels for layer in judge.layers if isinstance(layer, nn.Conv2d)] for judge in d.judges]
    assert chain == [[64, 128, 256, 512, 1], [128, 256, 512, 1], [256, 512, 1], [512, 1]]


def test_the_generator_has_the_published_widths() -> None:
    assert widths(256, 128) == {4: 2048, 8: 1024, 16: 512, 32: 256, 64: 256, 128: 128, 256: 64}
    g = fastgan(256)
    assert [*g.excitations] == ["64", "128", "256"]
    # By hand: the input, two 3x3 convolutions a block, batch normalisation, strengths, excitations, colours.
    w = {size: int(4 * share) for size, share in {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5}.items()}
    count = 16 * 2 * w[4] * 16 + 4 * w[4]
    for size in (8, 16, 32, 64, 128, 256):
        a, b = w[size // 2], w[size]
        count += 9 * a * 2 * b + 9 * b * 2 * b + 2 * (4 * b) + 2
    count += sum(16 * w[size // 16] * w[size] + w[size] ** 2 for size in (64, 128, 256)) + 9 * w[256] * 3
    assert sum(p.numel() for p in g.parameters()) == count


def test_lite_has_one_convolution_a_block_and_no_noise() -> None:
    lite, full = fastgan(lite=True), fastgan()
    z, seed = torch.randn(2, 16), torch.tensor([1, 2])
    assert sum(isinstance(m, nn.Conv2d) for m in lite.blocks.modules()) == 4
    assert sum(isinstance(m, nn.Conv2d) for m in full.blocks.modules()) == 8
    for g in (lite.eval(), full.eval()):
        assert torch.equal(g(z, seed), g(z, seed + 1))  # strengths start at 0
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            if name.endswith("strength"):
                parameter.fill_(1.0)
    assert not torch.equal(full(z, seed), full(z, seed + 1))
    assert torch.equal(full(z, seed), full(z, seed))


def test_excitation_scales_each_channel_by_the_small_maps() -> None:
    g = fastgan(lite=True).eval()
    z = torch.randn(1, 16)
    found: dict[str, Tensor] = {}
    g.input.register_forward_hook(lambda *call: found.update(small=call[-1]))
    g.blocks["64"].register_forward_hook(lambda *call: found.update(large=call[-1]))
    image = g(z)
    pool, first, _, second, _ = g.excitations["64"]
    factor = torch.sigmoid(second(F.silu(first(pool(found["small"])))))
    assert factor.shape == (1, 8, 1, 1)
    assert torch.allclose(image, g.output(found["large"] * factor), atol=1e-6)


def test_the_latent_counts_by_its_direction_alone() -> None:
    g = fastgan().eval()
    z = torch.randn(2, 16)
    assert torch.allclose(g(z), g(3 * z), atol=1e-5)


@pytest.mark.parametrize("classes", [0, 3])
def test_labels_reach_both_networks(classes: int) -> None:
    g, d = fastgan(32, classes=classes).eval(), discriminator(classes=classes)
    z, images = torch.randn(2, 16), torch.randn(2, 3, 32, 32)
    one, other = ((torch.tensor([k, k]),) if classes else () for k in (0, 1))
    assert torch.equal(g(z, None, *one), g(z, None, *other)) == (not classes)
    d.eval()
    assert torch.equal(d(images, *one), d(images, *other)) == (not classes)


def test_classes_are_projected_on_an_embedding() -> None:
    """Miyato and Koyama 2018, with the root of the width that equalises both."""
    judge = Judge(6, 16, 3, 8).eval()
    x, label = torch.randn(2, 6, 16, 16), torch.tensor([2, 0])
    vectors, rows = judge.layers(x), judge.embedding.weight[label]  # type: ignore[union-attr]
    expected = torch.stack([sum(vectors[i, k] * rows[i, k] for k in range(64)) / 8 for i in range(2)])  # type: ignore
    assert torch.allclose(judge(x, label), expected, atol=1e-5)


def test_mixing_is_that_of_the_paper() -> None:
    """In the paper's order: enlarge, then convolve; each pixel and channel by itself."""
    torch.manual_seed(0)
    mixing = Mixing([5, 5, 5, 5])
    assert mixing.channels == [64, 64, 128, 256]
    levels = [torch.randn(1, 5, n, n) for n in (16, 8, 4, 2)]
    below: Tensor | float = 0.0
    expected = []
    for x, across, down in reversed([*zip(levels, mixing.across, mixing.down, strict=True)]):
        y = torch.einsum("oi,nihw->nohw", across.weight[:, :, 0, 0], x) + below
        positions = torch.linspace(0, x.shape[2] - 1, 2 * x.shape[2])
        low = positions.floor().long().clamp(max=x.shape[2] - 2)
        share = positions - low
        rows = torch.lerp(y[:, :, low], y[:, :, low + 1], share[:, None])
        both = torch.lerp(rows[..., low], rows[..., low + 1], share)
        below = torch.einsum("oi,nihw->nohw", down.weight[:, :, 0, 0], both)
        expected.append(below)
    for found, wanted in zip(mixing(levels), reversed(expected), strict=True):
        assert torch.allclose(found, wanted, atol=1e-4)


def test_every_weight_of_both_networks_has_norm_one() -> None:
    for network in (fastgan(lite=True), discriminator().judges):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
                assert largest.item() == pytest.approx(1.0, abs=0.05)


def test_one_update_by_hand() -> None:
    """D's first step on a toy: the hinge loss of all patches, and Adam without momentum, whose first step has the size
    of the learning rate and the sign of the gradient."""
    d = discriminator(channel_max=4).double()
    real, fake = torch.randn(4, 3, 32, 32).double(), torch.randn(4, 3, 32, 32).double()
    before = {name: p.detach().clone() for name, p in d.named_parameters()}
    optimizer = torch.optim.Adam(d.parameters(), lr=0.01, betas=(0.0, 0.99))
    loss = F.relu(1 - d(real)).mean() + F.relu(1 + d(fake)).mean()
    loss.backward()
    optimizer.step()

    leaves = {name: p.clone().requires_grad_() for name, p in before.items()}
    spectral = {name: buffer for name, buffer in d.named_buffers() if name.endswith(".u")}

    def judged(images: Tensor) -> Tensor:
        large = F.interpolate(images, size=(64, 64), mode="bilinear")
        colours = torch.einsum("oi,nihw->nohw", d.features.network.colours.weight[:, :, 0, 0], large)
        mixed = d.mixing([F.avg_pool2d(colours, s).tanh() for s in (4, 8, 16, 32)])
        logits = []
        for i, x in enumerate(mixed):
            layers, last = d.judges[i].layers, len(d.judges[i].layers) - 1
            for k, layer in enumerate(layers):
                name = f"judges.{i}.layers.{k}"
                if isinstance(layer, nn.Conv2d):
                    weight = leaves[f"{name}.parametrizations.weight.original"]
                    u = spectral[f"{name}.parametrizations.weight.0.u"]
                    v = F.normalize(weight.detach().flatten(1).T @ u, dim=0)
                    weight = weight / (weight.flatten(1) @ v).norm()
                    x = F.conv2d(x, weight, stride=1 if k == last else 2, padding=0 if k == last else 1)
                elif isinstance(layer, nn.BatchNorm2d):
                    mean, variance = x.mean((0, 2, 3), True), x.var((0, 2, 3), unbiased=False, keepdim=True)
                    gain, bias = leaves[f"{name}.weight"], leaves[f"{name}.bias"]
                    x = (x - mean) / (variance + 1e-5).sqrt() * gain[:, None, None] + bias[:, None, None]
                else:
                    x = torch.where(x > 0, x, 0.2 * x)
            logits.append(x.flatten(1))
        return torch.cat(logits, dim=1)

    by_hand = (1 - judged(real)).clamp(min=0).mean() + (1 + judged(fake)).clamp(min=0).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=0.01)  # u has moved by a power iteration since
    by_hand.backward()
    for name, parameter in d.named_parameters():
        gradient = leaves[name].grad
        clear = gradient.abs() > 0.05 * gradient.abs().max()
        assert torch.allclose((parameter - before[name])[clear], -0.01 * gradient.sign()[clear], atol=1e-5), name


def test_the_frozen_network_is_in_no_optimizer_and_no_checkpoint(trainer: Callable[..., Trainer]) -> None:
    made = trainer(model="projected")
    d = made.game.discriminators["D"]
    frozen = {buffer.data_ptr() for buffer in [*d.features.buffers(), *d.mixing.buffers()]}
    held = {
        p.data_ptr()
        for player in made.players.values()
        for group in player.optimizer.param_groups
        for p in group["params"]
    }
    assert len(frozen) > 100 and not frozen & held
    assert [name for name in d.state_dict() if name.startswith("features")] == ["features.digest"]
    before = [buffer.clone() for buffer in d.features.buffers()]
    mixing = [buffer.clone() for buffer in d.mixing.buffers()]
    judges = [p.detach().clone() for p in d.judges.parameters()]
    made.iterate()
    assert all(torch.equal(a, b) for a, b in zip(before, d.features.buffers(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(mixing, d.mixing.buffers(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(judges, d.judges.parameters(), strict=True))


def test_other_weights_of_the_frozen_network_are_refused() -> None:
    one, other = discriminator(), discriminator()
    other.load_state_dict(one.state_dict())
    torch.manual_seed(1)
    other = Discriminator(resolution=32, image_channels=3, classes=0, network=Pools(), input=64, channel_max=16)
    with pytest.raises(UserError, match=r"model.discriminator.network: its weights"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("other", [-1, 0, 1])
def test_processes_with_other_frozen_weights_end(monkeypatch: pytest.MonkeyPatch, other: int) -> None:
    """They are not sent, so each process has what its machine has installed. `agree` takes the largest of all."""
    judge = discriminator()
    own = int.from_bytes(bytes(judge.features.digest[:7].tolist()))
    theirs = {own: own + other, -own: -own - other}
    monkeypatch.setattr("ganduel.system.distributed.agree", lambda number: max(number, theirs[number]))
    if other:
        with pytest.raises(UserError, match="its weights differ between the processes"):
            check_same_frozen(judge)
    else:
        check_same_frozen(judge)


def test_a_frozen_network_can_be_tried_without_memory() -> None:
    """As for a checkpoint of a stranger: shapes are compared before anything is built."""
    real = discriminator()
    with torch.device("meta"):
        trial = discriminator()
    assert all(tensor.is_meta for tensor in trial.buffers())
    trial.load_state_dict(real.state_dict(), assign=True)
    with pytest.raises(RuntimeError, match="size mismatch"):
        trial.load_state_dict(discriminator(channel_max=8).state_dict(), assign=True)
    with torch.device("meta"):
        assert all(tensor.is_meta for tensor in Pretrained(pretrained("efficientnet")).buffers())


def test_a_generator_with_classes_needs_labels() -> None:
    with pytest.raises(ValueError, match="a network of 3 classes needs the images' labels"):
        fastgan(32, classes=3)(torch.zeros(2, 16))
    with pytest.raises(ValueError, match="a network of 3 classes needs the images' labels"):
        discriminator(classes=3)(torch.zeros(2, 3, 32, 32))


def test_the_frozen_network_stays_in_evaluation_mode() -> None:
    d = discriminator(network=Normed())
    before = d.features.network.norm.running_mean.clone()
    d.train()(torch.rand(2, 3, 32, 32))
    assert d.training and torch.equal(d.features.network.norm.running_mean, before)


def test_several_gpus_leave_the_frozen_network_alone() -> None:
    d = nn.ModuleDict({"D": discriminator(network=Normed())})
    synchronise_batch_norm(d)
    kinds = [type(module) for module in d.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert kinds.count(nn.BatchNorm2d) == 1 and kinds.count(nn.SyncBatchNorm) == 3
    assert isinstance(d["D"].features.network.norm, nn.BatchNorm2d)


class Wrong(Pools):
    """Levels at other strides, or none that lets gradients through."""

    def __init__(self, strides: tuple[int, ...], gradient: bool) -> None:
        super().__init__()
        self.strides, self.gradient = strides, gradient

    def levels(self, images: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(images if self.gradient else images.detach(), stride) for stride in self.strides]


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (Wrong((4, 8, 16), True), r"must have sizes \[\(16, 16\), \(8, 8\)"),
        (Wrong((2, 4, 8, 16), True), r"and have \[\(32, 32\)"),
        (Wrong((4, 8, 16, 32), False), "no gradient reaches the images"),
    ],
)
def test_networks_that_cannot_serve(network: nn.Module, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        discriminator(network=network)


def test_gradients_pass_through_the_frozen_network() -> None:
    """The derivative of one logit by one pixel, by differences."""
    d = discriminator().double().eval()
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    d(images).mean().backward()
    step = torch.zeros_like(images)
    step[0, 1, 10, 12] = 1e-5
    with torch.no_grad():
        difference = (d(images + step).mean() - d(images - step).mean()) / 2e-5
    assert images.grad is not None
    assert images.grad[0, 1, 10, 12].item() == pytest.approx(difference.item(), rel=1e-5)


def test_a_grey_image_has_three_equal_channels() -> None:
    grey, colour = discriminator(image_channels=1).eval(), discriminator().eval()
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(grey(x), colour(x.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"input": 100}, "input=100 must be a multiple of 32"),
        ({"input": 32}, "input=32 must be a multiple of 32 and at least 64"),
        ({"channel_max": 0}, "channel_max=0 must be at least 1"),
    ],
)
def test_sizes_that_cannot_be(settings: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        discriminator(**settings)


def test_generators_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"resolution=48 is not allowed; it takes 16, 32, .*set data.resolution=64"):
        fastgan(48)
    with pytest.raises(ValueError, match="excitation=3 is not allowed"):
        fastgan(excitation=3)
    with pytest.raises(ValueError, match="channels=1 leaves no feature map at 1024 pixels"):
        fastgan(1024, channels=1)


def test_a_resumed_trainer_is_one_without_a_break(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    """By way of a file, which does not hold the frozen network."""
    one, other = (trainer(model="projected") for _ in range(2))
    for _ in range(2):
        one.iterate()
    checkpoint.save(tmp_path / "half.pt", {"state": one.state_dict()})
    other.load_state_dict(checkpoint.load(tmp_path / "half.pt", needs=["state"])["state"])
    for made in (one, other):
        made.iterate()
    assert_equal(one.state_dict(), other.state_dict())


@pytest.mark.slow
def test_a_resumed_run_is_that_without_a_break(packed: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, packed, *MODELS["projected"]]
    assert cli.command("train", [*arguments, "name=whole"]) == 0
    assert cli.command("train", [*arguments, "name=parts", "duration=2 steps"]) == 0
    assert cli.command("train", [*arguments, "name=parts"]) == 0
    assert_equal(state("runs/whole")["state"], state("runs/parts")["state"])


@pytest.mark.parametrize(
    ("model", "features", "resolved"),
    [("projected", "auto", "efficientnet_lite2"), ("dcgan", "auto", "efficientnet"), ("dcgan", "digits", "digits")],
)
def test_another_network_measures(compose, tmp_path, monkeypatch, model, features, resolved) -> None:  # type: ignore
    monkeypatch.setattr(extractors, "hub", lambda: tmp_path)  # without Inception's weights
    config = compose("metric.which=[fid]", f"metric.features={features}", model=model)
    assert with_features(config, RunFolder(tmp_path / "run")).metric.features == resolved


def test_a_network_does_not_judge_itself(compose, tmp_path) -> None:  # type: ignore
    config = compose("metric.which=[fid]", "metric.features=efficientnet", model="projected")
    with pytest.raises(UserError, match=r"metric\.features=efficientnet: D sees images through this network"):
        with_features(config, RunFolder(tmp_path / "run"))
    with_features(compose("metric.which=[]", "metric.features=efficientnet", model="projected"), RunFolder(tmp_path))


def test_the_recipe_is_the_papers() -> None:
    config = compose_config("train", ["model=projected"])
    assert [config.optimizer[player]["betas"] for player in "GD"] == [[0.0, 0.99]] * 2
    assert [config.optimizer[player]["lr"] for player in "GD"] == [2e-4] * 2
    assert config.ema.half_life == "20 kimg" and config.batch_size == 64
    assert config.loss["_target_"] == "ganduel.losses.hinge" and [*config.augment] == ["diffaugment"]


@pytest.mark.slow
def test_the_example_of_the_page(packed: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore
    """A frozen network of one's own, as docs/projected.md has it, trains; the printed commands name its package."""
    page = (config_dir().parent / "docs" / "projected.md").read_text()
    code = page.partition('```python title="mine.py"\n')[2].partition("```")[0]
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = ["allow=[mine]", "model.discriminator.network._target_=mine.Edges", "~model.discriminator.network.name"]
    assert f"allow=mine {own[1]}" in page and own[2] in page
    assert cli.command("train", [*TINY, packed, *MODELS["projected"], *own, "duration=1 steps"]) == 0
    assert "gan-sample ckpt=runs/tiny allow=mine" in capsys.readouterr().err
    assert cli.command("sample", ["ckpt=runs/tiny", "allow=[mine]"]) == 0
