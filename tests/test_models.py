"""Networks: sizes, shapes, initialisation, and what each knob does."""

import math
from functools import cache
from typing import Any

import pytest
import torch
import yaml
from conftest import assert_penalty_has_the_right_derivative, sizes
from torch import nn

from ganduel.build import locate
from ganduel.config.keys import config_dir
from ganduel.models.dcgan import convolution, upconvolution
from ganduel.models.dcgan_style import Adaptive, Demodulated, Mapping
from ganduel.models.layers import SelfAttention, normalise_spectrally
from ganduel.setup import assemble


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@cache
def options(model: str) -> dict[str, Any]:
    return yaml.safe_load((config_dir() / "model" / f"{model}.yaml").read_text())["model"]


def network(model: str, player: str, **changes: Any) -> nn.Module:
    """A network of a model, as its file has it but for these arguments; small, unless they say otherwise."""
    arguments = dict(options(model)[player])
    small = {"resolution": 32, "image_channels": 3, "latent": 10, "channels": 4}
    small = {name: value for name, value in small.items() if name in arguments}
    return locate(arguments.pop("_target_"), "model", [])(**arguments | small | changes)


def pair(model: str = "dcgan", **changes: Any) -> tuple[nn.Module, nn.Module]:
    return network(model, "generator", **changes), network(model, "discriminator", **changes)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("model", "latent", "generator", "discriminator"),
    [("dcgan", 100, 3_576_704, 2_765_568), ("resnet", 128, 8_540_483, 7_491_841)],
)
def test_published_parameter_counts(model, latent, generator, discriminator):
    assert count(network(model, "generator", resolution=64, channels=64, latent=latent)) == generator
    assert count(network(model, "discriminator", resolution=64, channels=64)) == discriminator


def test_vanilla_has_the_sizes_of_the_report():
    generator = network("vanilla", "generator", resolution=28, image_channels=1, latent=100)
    discriminator = network("vanilla", "discriminator", resolution=28, image_channels=1)
    assert round(count(generator) / 1e6) == 54
    images = generator(torch.randn(4, 100))
    assert images.shape == (4, 1, 28, 28) and images.abs().max() <= 1
    assert discriminator(images).shape == (4,)


# Sizes


def assert_fit(generator: nn.Module, discriminator: nn.Module, shape: tuple[int, ...]) -> None:
    images = generator(torch.randn(2, generator.latent))
    assert images.shape == (2, *shape)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (2,)


@pytest.mark.parametrize("resolution", range(28, 129))
def test_every_size(resolution):
    channels = 1 + 2 * (resolution % 2)
    assert_fit(*pair(resolution=resolution, image_channels=channels), (channels, resolution, resolution))


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256])
def test_every_size_of_resnet(resolution):
    generator, discriminator = pair("resnet", resolution=resolution, channels=1)
    assert_fit(generator, discriminator, (3, resolution, resolution))
    blocks = int(math.log2(resolution / 4))
    assert generator.layers[0].out_features == 16 * min(8, 2**blocks)


@pytest.mark.parametrize("resolution", [28, 31, 32])
@pytest.mark.parametrize("kernel", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("upsampling", ["transposed", "nearest", "bilinear"])
def test_every_kernel(resolution, kernel, upsampling):
    generator = network("dcgan", "generator", resolution=resolution, kernel=kernel, upsampling=upsampling)
    discriminator = network("dcgan", "discriminator", resolution=resolution, kernel=kernel)
    assert_fit(generator, discriminator, (3, resolution, resolution))
    assert {layer.kernel_size for layer in discriminator.modules() if isinstance(layer, nn.Conv2d)} == {
        (kernel, kernel),
        discriminator.layers[-2].kernel_size,
    }


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_convolutions_halve_double_and_keep(size, kernel):
    x = torch.randn(1, 2, size, size)
    assert convolution(2, 3, kernel, 1, True)(x).shape == (1, 3, size, size)
    assert convolution(2, 3, kernel, 2, True)(x).shape[-1] == (size + kernel % 2) // 2
    for kind in ("transposed", "nearest", "bilinear"):
        for stride in (1, 2):
            resize, conv = upconvolution(kind, 2, 3, kernel, stride, True)
            assert conv(resize(x)).shape == (1, 3, stride * size, stride * size)


def test_channels_and_strides_list_the_stages():
    generator = network("dcgan", "generator", channels=[6, 5, 4], strides=[1, 2, 2], kernel=5, image_channels=1)
    assert sizes(generator, torch.randn(2, 10)) == [(6, 8, 8), (5, 8, 8), (4, 16, 16), (1, 32, 32)]
    discriminator = network("dcgan", "discriminator", channels=[4, 5, 6], strides=[1, 2, 2], kernel=5, padding=2)
    assert sizes(discriminator, torch.randn(2, 3, 32, 32)) == [(4, 36, 36), (5, 18, 18), (6, 9, 9), (1, 1, 1)]
    deep = network("dcgan", "generator", channels=4, depth=2)
    assert sizes(deep, torch.randn(2, 10)) == sizes(network("dcgan", "generator", channels=[8, 4]), torch.randn(2, 10))


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("dcgan", {"resolution": 8}, "resolution=8 is too small"),
        ("dcgan", {"depth": 4}, "depth=4 does not fit resolution 32: 1 to 3"),
        ("dcgan", {"depth": 0}, "depth=0"),
        ("dcgan", {"depth": 2, "channels": [4, 8]}, "depth=2 beside channels"),
        ("dcgan", {"channels": []}, "channels="),
        ("dcgan", {"channels": [4, 0]}, "channels=.* must be at least 1"),
        ("dcgan", {"channels": [4] * 5}, "5 stages of stride 2 are too many for 32"),
        ("dcgan", {"strides": [2]}, "strides=.* must be 3 numbers"),
        ("dcgan", {"strides": [2, 2, 3]}, "strides=.* 1 or 2"),
        ("dcgan", {"kernel": 2}, "kernel=2 must be 3 to 7"),
        ("dcgan", {"slope": -1.0}, "slope=-1.0 must be from 0 to 1"),
        ("dcgan", {"attention": 64}, "attention=64 must be the size of a feature map: (8, 16|16, 8, 4)$"),
        ("resnet", {"resolution": 28}, "resolution=28 is not allowed.*set data.resolution=32, with data.resize=pad"),
        ("resnet", {"resolution": 8}, "set data.resolution=16"),
        ("resnet", {"resolution": 512}, "set data.resolution=256"),
        ("resnet", {"channels": 0}, "channels=0"),
    ],
)
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_impossible(model, changes, words, player):
    with pytest.raises(ValueError, match=words):
        network(model, player, **changes)


def test_impossible_in_one_network_alone():
    for words, changes in {
        "latent=0": {"latent": 0},
        "mapping=-1": {"mapping": -1},
        "mapping_rate=0": {"mapping_rate": 0},
    }.items():
        with pytest.raises(ValueError, match=words):
            network("dcgan", "generator", **changes)
    for words, changes in {
        "padding=-1": {"padding": -1},
        r"\[14, 7, 3, 1\] pixels must keep 2": {"resolution": 28, "channels": [4] * 4},
    }.items():
        with pytest.raises(ValueError, match=words):
            network("dcgan", "discriminator", **changes)


# Initialisation and normalisation


def test_initialisation_of_dcgan():
    for name, p in network("dcgan", "generator", resolution=64, channels=32).named_parameters():
        p = p.detach()
        if p.ndim == 4:
            assert float(p.std()) == pytest.approx(0.02, rel=0.2), name
            assert abs(float(p.mean())) < 0.01, name
        else:
            assert abs(float(p.mean()) - (1.0 if name.endswith("weight") else 0.0)) < 0.03, name


# Of 64 pixels: the first layer; two convolutions and the shortcut of each block; the last layer.
DEVIATIONS = {
    "generator": "0.0155 0.0208 0.0208 0.0442 0.0241 0.0295 0.051 0.034 0.0417 0.0722 0.0481 0.0589 0.1021 0.0814",
    "discriminator": "0.0576 0.0589 0.0481 0.1021 0.0417 0.034 0.0722 0.0295 0.0241 0.051 0.0208 0.0208 0.0442 0.0156",
}


@pytest.mark.parametrize("player", DEVIATIONS)
def test_initialisation_of_resnet(player):
    """The authors': uniform, of variance 2 / (fan in + fan out) in shortcuts, dense layers and D's first, and of twice
    that in all other convolutions: sqrt(4 / (9 * 64 + 9 * 3)) = 0.0814 in G's last."""
    latent = {"latent": 128} if player == "generator" else {}
    layers = network("resnet", player, resolution=64, channels=64, **latent)
    deviations = map(float, DEVIATIONS[player].split())
    found = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer, deviation in zip(found, deviations, strict=True):
        weight = layer.weight.detach()
        assert float(weight.std()) == pytest.approx(deviation, rel=0.04), layer
        assert float(weight.abs().max()) == pytest.approx(math.sqrt(3) * deviation, rel=0.01), layer
        assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("model", ["dcgan", "resnet"])
@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "none"])
def test_norms(model, norm):
    generator, discriminator = pair(model, norm=norm)
    discriminator(generator(torch.randn(3, 10))).sum().backward()
    assert not [n for m in (generator, discriminator) for n, p in m.named_parameters() if p.grad is None]
    expected = {"batch": {nn.BatchNorm2d}, "layer": {nn.GroupNorm}, "instance": {nn.InstanceNorm2d}, "none": set()}
    for network_ in (generator, discriminator):
        kinds = {type(m) for m in network_.modules()} & {nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d}
        assert kinds == expected[norm]


def test_layer_norm_is_over_channels_and_space():
    norm = next(m for m in network("dcgan", "discriminator", norm="layer").modules() if isinstance(m, nn.GroupNorm))
    nn.init.ones_(norm.weight)
    x = torch.randn(2, norm.num_channels, 5, 5) * torch.arange(norm.num_channels)[:, None, None] + 1
    expected = nn.functional.layer_norm(x, x.shape[1:])
    assert torch.allclose(norm(x), expected, atol=1e-5)


@pytest.mark.parametrize("model", ["dcgan", "resnet"])
def test_spectral_norm_bounds_the_largest_singular_value(model):
    discriminator = network(model, "discriminator", norm="none", spectral_norm=True)
    with torch.no_grad():
        for _ in range(200):  # each pass improves the estimates, whatever the images are
            discriminator(torch.zeros(1, 3, 32, 32))
    layers = [m for m in discriminator.eval().modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) >= 4
    for layer in layers:
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.01)


def test_spectral_norm_needs_the_direction_of_its_vector_alone():
    """An average of unit vectors is shorter than they are."""
    layer = nn.Conv2d(3, 5, 4)
    normalise_spectrally(layer)
    layer.eval()
    before = layer.weight.detach().clone()
    layer.parametrizations.weight[0].u *= 0.7
    assert torch.allclose(layer.weight, before, atol=1e-6)


def test_spectral_norm_has_the_gradient_of_the_singular_value():
    """Of a converged estimate: that of W / |W|, by PyTorch's own singular values."""
    layer = nn.Linear(4, 3, bias=False)
    weight, direction = layer.weight.detach().clone().requires_grad_(), torch.randn(3, 4)
    normalise_spectrally(layer)
    for _ in range(500):
        y = layer.weight
    (y * direction).sum().backward()
    (weight / torch.linalg.matrix_norm(weight, 2) * direction).sum().backward()
    assert torch.allclose(layer.parametrizations.weight.original.grad, weight.grad, atol=1e-4)


def test_spectral_norm_goes_through_a_checkpoint():
    changes = {"norm": "none", "spectral_norm": True}
    one, other = (network("dcgan", "discriminator", **changes) for _ in range(2))
    images = torch.randn(2, 3, 32, 32)
    one(images)
    assert not torch.equal(one.eval()(images), other.eval()(images))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(images), other(images))
    assert torch.equal(one.train()(images), other.train()(images))  # the iteration goes on from the same vectors


def test_spectral_norm_of_a_transposed_convolution_is_over_its_outputs():
    layer = nn.ConvTranspose2d(3, 5, 4)
    normalise_spectrally(layer)
    for _ in range(200):
        y = layer.weight
    assert float(torch.linalg.matrix_norm(y.detach().transpose(0, 1).flatten(1), 2)) == pytest.approx(1, abs=1e-3)


# Attention, shortcuts, dropout, ends


def test_attention_starts_as_the_identity_and_then_sees_everything():
    attention = SelfAttention(16)
    x = torch.randn(2, 16, 5, 4, requires_grad=True)
    assert torch.equal(attention(x), x)
    with torch.no_grad():
        attention.gamma.fill_(1.0)
    y = attention(x)
    (reach,) = torch.autograd.grad(y[0, :, 0, 0].sum(), x)
    assert (reach[0].abs().sum(0) > 0).all() and not reach[1].any()
    # A permutation of positions permutes the result.
    assert torch.allclose(attention(x.flip(2, 3)), y.flip(2, 3), atol=1e-5)


def test_attention_is_a_weighted_mean_of_values():
    attention = SelfAttention(8)
    with torch.no_grad():
        for weight, value in zip(attention.parameters(), (1.0, 0.3, -0.2, 0.5, 0.7), strict=True):
            weight.fill_(value)  # gamma comes first
    x = torch.randn(1, 8, 2, 3)
    total = x.sum(1).flatten()  # what every 1x1 convolution sees
    scores = torch.outer(0.3 * total, -0.2 * total)
    expected = x + 0.7 * (scores.softmax(1) @ (0.5 * total)).view(1, 1, 2, 3)
    assert torch.allclose(attention(x), expected, atol=1e-5)


@pytest.mark.parametrize("player", ["generator", "discriminator"])
@pytest.mark.parametrize("size", [8, 16])
def test_attention_has_the_size_that_was_asked_for(player, size):
    found = []
    one = network("dcgan", player, attention=size)
    for m in one.modules():
        if isinstance(m, SelfAttention):
            m.register_forward_hook(lambda layer, inputs, output: found.append(output.shape[-1]))
    one(torch.randn(2, 10) if player == "generator" else torch.randn(2, 3, 32, 32))
    assert found == [size]


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_shortcuts_carry_what_the_layers_drop(player):
    """With the convolutions beside them at zero, the input still comes through."""
    for residual in (False, True):
        one = network("dcgan", player, residual=residual, norm="none", slope=0.2, kernel=5, resolution=30)
        for stage in one.stages if player == "generator" else one.layers[:-2]:
            nn.init.zeros_(stage.layer[-2 if player == "discriminator" else 1].weight)
        x = torch.randn(2, 10) if player == "generator" else torch.randn(2, 3, 30, 30)
        assert (one(x).std(0) > 0).any() == residual


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_dropout(player):
    one = network("dcgan", player, dropout=0.5, norm="none")
    x = torch.randn(2, 10) if player == "generator" else torch.randn(2, 3, 32, 32)
    assert not torch.equal(one(x), one(x))
    assert torch.equal(one.eval()(x), one(x))
    same = network("dcgan", player, norm="none")
    assert torch.equal(same(x), same(x))


def test_dense_ends_are_the_convolutions_but_for_a_bias():
    generator, dense = (network("dcgan", "generator", input=kind).eval() for kind in ("convolution", "dense"))
    z = torch.randn(2, 10)
    with torch.no_grad():
        weight = generator.input[0].weight  # (latent, channels, 4, 4)
        dense.input[1].weight.copy_(weight.flatten(1).T)
        assert torch.allclose(generator.input[0](z[:, :, None, None]), dense.input[:3](z), atol=1e-6)
        discriminator, dense = (
            network("dcgan", "discriminator", head=kind).eval() for kind in ("convolution", "dense")
        )
        dense.load_state_dict(
            discriminator.state_dict()
            | {"layers.4.weight": discriminator.layers[3].weight.flatten(1), "layers.4.bias": torch.zeros(1)},
            strict=False,
        )
        images = torch.randn(2, 3, 32, 32)
        assert torch.allclose(discriminator(images), dense(images), atol=1e-6)


@pytest.mark.parametrize("model", ["dcgan", "vanilla"])
def test_sigmoid_output_is_the_sigmoid_of_the_linear_one(model):
    linear, sigmoid = (network(model, "discriminator", output=o).eval() for o in ("linear", "sigmoid"))
    sigmoid.load_state_dict(linear.state_dict())
    images = 10 * torch.randn(5, 3, 32, 32)
    assert torch.equal(linear(images).sigmoid(), sigmoid(images))
    assert sigmoid(images).min() > 0 and sigmoid(images).max() < 1
    assert (linear.output, sigmoid.output) == ("linear", "sigmoid")


# Styles


def test_adaptive_norm_gives_the_statistics_of_the_style():
    layer = Adaptive(nn.Identity(), nn.Conv2d(3, 4, 3, padding=1), 6)
    w = torch.randn(2, 6)
    y = layer(5 * torch.randn(2, 3, 32, 32) + 1, w).detach()
    scale, shift = layer.style(w).detach().chunk(2, dim=1)
    assert torch.allclose(y.mean((2, 3)), shift, atol=1e-4)
    assert torch.allclose(y.std((2, 3), unbiased=False), (1 + scale).abs(), atol=1e-3)


@pytest.mark.parametrize("kind", ["transposed", "nearest", "keep"])
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_demodulated_weights_give_unit_variance(kind, kernel):
    """Whatever the w; where every output meets all its weights, of independent inputs of unit variance."""
    resize, conv = upconvolution(kind, 32, 16, kernel, 1 if kind == "keep" else 2, False)
    nn.init.normal_(conv.weight, 0, 3.0)
    layer = Demodulated(nn.Identity(), conv, 6)
    y = layer(torch.randn(32, 32, 12, 12), 2 * torch.randn(32, 6)).detach()[:, :, 4:-4, 4:-4]
    assert float(y.var()) == pytest.approx(1, rel=0.05)
    assert resize(torch.zeros(1, 1, 4, 4)).shape[-1] == (8 if kind == "nearest" else 4)


@pytest.mark.parametrize("kind", ["transposed", "nearest"])
def test_demodulation_equals_weights_of_its_own_for_every_image(kind):
    resize, conv = upconvolution(kind, 3, 4, 4, 2, False)
    layer = Demodulated(resize, conv, 6)
    x, w = torch.randn(2, 3, 5, 5), torch.randn(2, 6)
    for i in range(2):
        scale = 1 + layer.style(w[i])
        outputs, inputs = (1, 0) if kind == "transposed" else (0, 1)
        weight = conv.weight * scale.view(-1, 1, 1, 1).transpose(0, inputs)
        variance = weight.square().sum((inputs, 2, 3), keepdim=True) / (4 if kind == "transposed" else 1)
        weight = weight / (variance + 1e-8).sqrt()
        assert weight.shape[outputs] == 4
        y = resize(x[i : i + 1])
        y = (
            nn.functional.conv_transpose2d(y, weight, stride=2, padding=1)
            if kind == "transposed"
            else nn.functional.conv2d(y, weight, padding=1)
        )
        assert torch.allclose(layer(x, w)[i : i + 1], y, atol=1e-4)


@pytest.mark.parametrize("layers", [1, 4, 8])
@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_mapping_starts_standardised_whatever_the_size_of_z(layers, rate):
    mapping, z = Mapping(100, layers, rate), torch.randn(4096, 100)
    assert sum(isinstance(m, nn.Linear) for m in mapping.modules()) == layers
    w = mapping(z).detach()
    assert torch.allclose(mapping(7 * z), w, atol=1e-4)
    assert float(w.mean(0).square().mean()) < 0.005
    assert float(w.std(0).mean()) == pytest.approx(1, rel=0.02)


def test_adam_moves_the_mapping_at_its_rate():
    moved = []
    for rate in (1.0, 0.01):
        mapping = Mapping(10, 2, rate)
        z = torch.randn(8, 10)
        before = [layer.weight.detach() * rate for layer in mapping.layers if isinstance(layer, nn.Linear)]
        optimizer = torch.optim.Adam(mapping.parameters(), lr=1e-3)
        mapping(z).sum().backward()
        optimizer.step()
        after = [layer.weight.detach() * rate for layer in mapping.layers if isinstance(layer, nn.Linear)]
        moved.append([float((a - b).abs().max()) for a, b in zip(after, before, strict=True)])
    assert moved[0] == pytest.approx([1e-3] * 2, rel=0.01)
    assert moved[1] == pytest.approx([1e-5] * 2, rel=0.05)


@pytest.mark.parametrize("norm", ["batch", "adain", "demodulation"])
def test_a_generator_is_synthesis_after_mapping(norm):
    generator = network("dcgan", "generator", norm=norm, mapping=4).eval()
    z = torch.randn(3, 10)
    assert torch.equal(generator(z), generator.synthesis(generator.mapping(z)))
    assert torch.allclose(generator(z), generator(3 * z), atol=1e-4)
    assert network("dcgan", "generator", mapping=2, mapping_rate=0.5).mapping.layers[0].rate == 0.5
    unmapped = network("dcgan", "generator", norm=norm, mapping=0).eval()
    assert torch.equal(unmapped(z), unmapped.synthesis(z))


@pytest.mark.parametrize("norm", ["batch", "adain", "demodulation"])
def test_the_style_reaches_every_stage(norm):
    generator, z, given = network("dcgan", "generator", norm=norm, mapping=2), torch.randn(3, 10), []
    for stage in generator.stages:
        stage.register_forward_pre_hook(lambda stage, inputs: given.append(inputs[1:]))
        if norm != "batch":
            x = torch.randn(3, stage.layer.convolution.in_channels, 4, 4)
            assert not torch.allclose(stage.layer(x, z), stage.layer(x, z.flip(0)))
    generator(z)
    first = (
        nn.GroupNorm if norm != "batch" else nn.BatchNorm2d
    )  # demodulation alone would keep it as small as it starts
    assert isinstance(generator.input[1], first)
    w = () if norm == "batch" else (generator.mapping(z),)
    assert len(given) == 2
    assert all(len(one) == len(w) and all(map(torch.equal, one, w)) for one in given)


# Training

KNOBS = {
    "mapping": ("model.generator.mapping=2",),
    "adain": ("model.generator.norm=adain", "model.generator.mapping=2"),
    "demodulation": ("model.generator.norm=demodulation", "model.generator.upsampling=bilinear"),
    "attention": ("model.generator.attention=8", "model.discriminator.attention=8"),
    "residual": ("model.generator.residual=true", "model.discriminator.residual=true"),
    "spectral": ("model.generator.spectral_norm=true", "model.discriminator.spectral_norm=true"),
    "dropout": ("model.generator.dropout=0.2", "model.discriminator.dropout=0.3"),
    "odd": ("model.generator.kernel=5", "model.discriminator.kernel=5", "model.discriminator.padding=2"),
    "ends": ("model.generator.input=dense", "model.discriminator.head=dense", "model.discriminator.output=sigmoid"),
    "stages": ("model.generator.channels=[8,4,4]", "model.generator.strides=[1,2,2]", "model.discriminator.slope=0.1"),
    "all": (
        "model.generator.norm=adain",
        "model.generator.mapping=1",
        "model.generator.residual=true",
        "model.generator.attention=16",
        "model.generator.dropout=0.1",
        "model.generator.spectral_norm=true",
        "model.discriminator.residual=true",
        "model.discriminator.attention=16",
        "model.discriminator.dropout=0.1",
        "model.discriminator.spectral_norm=true",
        "model.discriminator.output=sigmoid",
    ),
}


@pytest.mark.parametrize("knob", KNOBS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_knob_trains_under_a_gradient_penalty(compose, knob, precision):
    """Every parameter of both networks moves, or at least has a gradient."""
    overrides = ("loss=wasserstein", "regularizer=[gradient_penalty]", f"precision={precision}", *KNOBS[knob])
    trainer, _ = assemble(compose(*overrides), torch.device("cpu"))
    for _ in range(2):  # attention's other weights have no gradient before gamma has moved
        trainer.iterate()
    assert trainer.not_finite() == []
    for player in trainer.players.values():
        assert not [n for n, p in player.networks.named_parameters() if p.grad is None]


DISCRIMINATORS = {
    "plain": ("dcgan", {"norm": "none"}),
    "batch": ("dcgan", {}),
    "layer": ("dcgan", {"norm": "layer"}),
    "spectral": ("dcgan", {"norm": "none", "spectral_norm": True}),
    "attention": ("dcgan", {"attention": 8}),
    "residual": ("dcgan", {"residual": True, "kernel": 5}),
    "ends": ("dcgan", {"output": "sigmoid", "head": "dense", "padding": 2}),
    "resnet": ("resnet", {}),
    "resnet spectral": ("resnet", {"norm": "none", "spectral_norm": True}),
}


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_penalties_have_the_right_derivatives(kind):
    model, changes = DISCRIMINATORS[kind]
    discriminator = network(model, "discriminator", resolution=16, **changes).double()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    for _ in range(200 if "spectral" in kind else 0):  # only converged singular vectors do not depend on the weights
        discriminator(images)
    discriminator.eval()
    for m in discriminator.modules():
        if isinstance(m, SelfAttention):
            nn.init.ones_(m.gamma)
    weight = next(p for p in discriminator.parameters() if p.ndim == 4)
    assert_penalty_has_the_right_derivative(discriminator, images, weight)
