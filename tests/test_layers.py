"""The networks of the reports' recipes, layer by layer, as the reports print or describe them.

A line is a layer with what it gives, (C, H, W) as CxHxW or a number of values. Layers that change nothing are left out.
"""

from itertools import pairwise
from typing import Any

import pytest
import torch
from test_recipes import DATA
from torch import nn

from ganduel import build
from ganduel.config.compose import compose
from ganduel.models.cyclegan import InstanceNorm, Residual


def named(layer: nn.Module) -> str | None:
    """A layer in words; None if it only passes on or reshapes what it gets."""
    match layer:
        case nn.Conv2d() | nn.ConvTranspose2d():
            kind = "conv" if isinstance(layer, nn.Conv2d) else "up"
            size = f"{layer.kernel_size[0]}/{layer.stride[0]}"
            words = f"{kind} {size} {layer.in_channels}>{layer.out_channels}"
        case nn.Linear():
            words = f"dense {layer.in_features}>{layer.out_features}"
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return "batch norm"
        case nn.GroupNorm():
            return "layer norm"
        case InstanceNorm():
            return "instance norm"
        case nn.LeakyReLU():
            return f"leaky {layer.negative_slope}" if layer.negative_slope else "relu"
        case nn.ReLU():
            return "relu"
        case nn.Dropout():
            return f"dropout {layer.p}" if layer.p else None
        case nn.Upsample():
            return "nearest x2"
        case nn.ZeroPad2d():
            return "zeros"
        case nn.Tanh() | nn.Sigmoid():
            return type(layer).__name__.lower()
        case Residual():
            return "add"
        case _:
            return None
    return f"spectral {words}" if hasattr(layer, "parametrizations") else words


def layers(network: nn.Module, given: torch.Tensor) -> list[str]:
    """The layers in the order in which they finish."""
    seen: list[str] = []

    def note(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if words := named(layer):
            seen.append(f"{words}: {'x'.join(map(str, output.shape[1:]))}")

    for layer in network.modules():
        layer.register_forward_hook(note)
    network(given)
    return seen


def of(name: str, *overrides: str) -> tuple[list[str], list[str]]:
    """The layers of G and of D of a recipe."""
    composed = compose("train", [f"experiment={name}", *([] if "horse" in name else DATA), *overrides])
    with torch.device("meta"):  # shapes without numbers
        game = build.game(composed.model, composed.augment, [])
        generator, discriminator = (next(iter(part.values())) for part in (game.generators, game.discriminators))
        images = torch.empty(2, composed.data.channels, *[composed.data.resolution] * 2)
        given = images if "horse" in name else torch.empty(2, generator.latent)
        return layers(generator, given), layers(discriminator, images)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip().splitlines()]


COLOUR = "data.resolution=64", "data.channels=3"
TUTORIAL_G = """
    up 4/1 100>512: 512x4x4
    batch norm: 512x4x4
    relu: 512x4x4
    up 4/2 512>256: 256x8x8
    batch norm: 256x8x8
    relu: 256x8x8
    up 4/2 256>128: 128x16x16
    batch norm: 128x16x16
    relu: 128x16x16
    up 4/2 128>64: 64x32x32
    batch norm: 64x32x32
    relu: 64x32x32
    up 4/2 64>3: 3x64x64
"""
TUTORIAL_D = """
    conv 4/2 3>64: 64x32x32
    leaky 0.2: 64x32x32
    conv 4/2 64>128: 128x16x16
    batch norm: 128x16x16
    leaky 0.2: 128x16x16
    conv 4/2 128>256: 256x8x8
    batch norm: 256x8x8
    leaky 0.2: 256x8x8
    conv 4/2 256>512: 512x4x4
    batch norm: 512x4x4
    leaky 0.2: 512x4x4
"""
ENDS_G, ENDS_D = "tanh: 3x64x64", "conv 4/1 512>1: 1x1x1"


def test_places_dcgan_is_the_tutorials():
    """R0, section 3.1, and PyTorch's tutorial."""
    assert of("places_dcgan", *COLOUR) == (lines(TUTORIAL_G + ENDS_G), lines(TUTORIAL_D + ENDS_D))


def test_places_wgan_gp():
    """R0, section 3.2: no sigmoid, layer normalisation instead of batch normalisation in D."""
    critic = TUTORIAL_D.replace("batch norm", "layer norm")
    assert of("places_wgan_gp", *COLOUR) == (lines(TUTORIAL_G + ENDS_G), lines(critic + ENDS_D))


def test_bedroom_dcgan():
    """R1, section 2.2: five convolutions in G with batch normalisation; D's three as (out, out, in), then Dense 1."""
    generator = TUTORIAL_G + "batch norm: 3x64x64\n" + ENDS_G
    assert of("bedroom_dcgan", *COLOUR) == (lines(generator), lines(TUTORIAL_D + "dense 8192>1: 1"))


def test_bedroom_wgan_gp_1():
    """R1, section 2.3: sizes 34, 17, 9, Flatten 5184 and Dense 8192."""
    generator = """
        dense 128>8192: 8192
        batch norm: 128x8x8
        leaky 0.2: 128x8x8
        nearest x2: 128x16x16
        conv 3/1 128>128: 128x16x16
        batch norm: 128x16x16
        leaky 0.2: 128x16x16
        nearest x2: 128x32x32
        conv 3/1 128>256: 256x32x32
        batch norm: 256x32x32
        leaky 0.2: 256x32x32
        nearest x2: 256x64x64
        conv 3/1 256>3: 3x64x64
        batch norm: 3x64x64
        tanh: 3x64x64
    """
    critic = """
        zeros: 3x68x68
        conv 5/2 3>128: 128x34x34
        leaky 0.2: 128x34x34
        conv 5/2 128>256: 256x17x17
        leaky 0.2: 256x17x17
        conv 5/2 256>64: 64x9x9
        leaky 0.2: 64x9x9
        dense 5184>1: 1
    """
    assert of("bedroom_wgan_gp_1", *COLOUR) == (lines(generator), lines(critic))


def test_bedroom_wgan_gp_2():
    """R1, section 2.4: Dense 128, dropout 0.2 behind G's convolutions. The image has none."""
    generator = """
        dense 1024>128: 128
        batch norm: 2x8x8
        leaky 0.2: 2x8x8
        nearest x2: 2x16x16
        conv 3/1 2>256: 256x16x16
        batch norm: 256x16x16
        leaky 0.2: 256x16x16
        dropout 0.2: 256x16x16
        nearest x2: 256x32x32
        conv 3/1 256>64: 64x32x32
        batch norm: 64x32x32
        leaky 0.2: 64x32x32
        dropout 0.2: 64x32x32
        nearest x2: 64x64x64
        conv 3/1 64>3: 3x64x64
        batch norm: 3x64x64
        tanh: 3x64x64
    """
    critic = """
        zeros: 3x68x68
        conv 5/2 3>128: 128x34x34
        leaky 0.2: 128x34x34
        conv 5/2 128>256: 256x17x17
        leaky 0.2: 256x17x17
        dense 73984>1: 1
    """
    assert of("bedroom_wgan_gp_2", *COLOUR) == (lines(generator), lines(critic))
    composed = compose("train", ["experiment=bedroom_wgan_gp_2", *DATA, *COLOUR])
    with torch.device("meta"):
        generator = build.game(composed.model, {}, []).generators
    norms = 2 * (2 + 256 + 64 + 3)
    weights = 1025 * 128 + 9 * (2 * 256 + 256 * 64 + 64 * 3)
    assert sum(p.numel() for p in generator.parameters()) == weights + norms


def test_afhq_dcgan_spectral_keeps_batch_norm():
    """R2, experiment 5: spectral normalisation "does not eliminate the need for batch normalization"."""
    spectral = lines(TUTORIAL_D + ENDS_D)
    spectral = [f"spectral {line}" if line.startswith("conv") else line for line in spectral]
    assert of("afhq_dcgan_spectral", *COLOUR) == (lines(TUTORIAL_G + ENDS_G), spectral)
    alone = [line for line in spectral if not line.startswith("batch")]
    assert of("afhq_dcgan_spectral", *COLOUR, "model.discriminator.norm=none")[1] == alone


def test_afhq_dcgan_mapping():
    """R2, experiment 3: an MLP of 4 layers from 100 numbers to 100."""
    mapping = "\nleaky 0.2: 100\n".join(["dense 100>100: 100"] * 4)
    assert of("afhq_dcgan_mapping", *COLOUR)[0] == lines(mapping + TUTORIAL_G + ENDS_G)


def test_afhq_dcgan_residual():
    """R2, experiment 5: connections "in the Generator network"."""
    generator, discriminator = of("afhq_dcgan_residual", *COLOUR)
    assert sum(line.startswith("conv 1/1") for line in generator) == 3
    assert discriminator == lines(TUTORIAL_D + ENDS_D)


def test_mnist_dcgan_tutorial():
    """R3, table 2, model #1: TensorFlow's tutorial."""
    generator = """
        dense 100>12544: 12544
        batch norm: 256x7x7
        leaky 0.3: 256x7x7
        conv 5/1 256>128: 128x7x7
        batch norm: 128x7x7
        leaky 0.3: 128x7x7
        up 5/2 128>64: 64x14x14
        batch norm: 64x14x14
        leaky 0.3: 64x14x14
        up 5/2 64>1: 1x28x28
        tanh: 1x28x28
    """
    discriminator = """
        conv 5/2 1>64: 64x14x14
        leaky 0.3: 64x14x14
        dropout 0.3: 64x14x14
        conv 5/2 64>128: 128x7x7
        leaky 0.3: 128x7x7
        dropout 0.3: 128x7x7
        dense 6272>1: 1
    """
    assert of("mnist_dcgan_tutorial", "data.resolution=28") == (lines(generator), lines(discriminator))


def test_celeba64_dcgan():
    """R3, section 4.3: Miyato et al. 2018, table 3, with batch normalisation in D (table 3 of the report, #A)."""
    generator = """
        dense 100>32768: 32768
        batch norm: 512x8x8
        relu: 512x8x8
        up 4/2 512>256: 256x16x16
        batch norm: 256x16x16
        relu: 256x16x16
        up 4/2 256>128: 128x32x32
        batch norm: 128x32x32
        relu: 128x32x32
        up 4/2 128>64: 64x64x64
        batch norm: 64x64x64
        relu: 64x64x64
        conv 3/1 64>3: 3x64x64
        tanh: 3x64x64
    """
    found = of("celeba64_dcgan", *COLOUR)
    assert found[0] == lines(generator)
    widths, side, expected = [3, 64, 64, 128, 128, 256, 256, 512], 64, []
    for i, (before, after) in enumerate(pairwise(widths)):
        side //= 1 + i % 2
        shape = f"{after}x{side}x{side}"
        expected.append(f"conv {'4/2' if i % 2 else '3/1'} {before}>{after}: {shape}")
        expected += [f"batch norm: {shape}"] * (i > 0) + [f"leaky 0.1: {shape}"]
    assert found[1] == [*expected, "dense 32768>1: 1"]


def test_mnist_vanilla():
    """R4, section 1.2.1: leaky ReLU, then batch normalisation, in G; the last layer's sigmoid is in D's loss.

    The report has dropout before leaky ReLU. They commute: dropout scales by 0 or by 1 / 0.7.
    """
    generator = [f"dense {before}>4096: 4096\nleaky 0.2: 4096\nbatch norm: 4096" for before in (100, 4096, 4096, 4096)]
    discriminator = [
        f"dense {before}>{after}: {after}\nleaky 0.2: {after}\ndropout 0.3: {after}"
        for before, after in ((784, 1024), (1024, 512), (512, 256))
    ]
    assert of("mnist_vanilla", "data.resolution=28") == (
        lines("\n".join([*generator, "dense 4096>784: 784", "tanh: 784"])),
        lines("\n".join([*discriminator, "dense 256>1: 1"])),
    )


@pytest.mark.parametrize(("name", "side"), [("horse2zebra_resnet", 256), ("horse2zebra_resnet_augmented", 128)])
def test_horse2zebra_resnet(name, side):
    """R4, appendices A.1 to A.3. The last convolution is printed as a transposed one of stride 1, which is the same."""
    half, quarter = side // 2, side // 4

    def stage(words, maps, side):
        shape = f"{maps}x{side}x{side}"
        return [f"{words}: {shape}", f"instance norm: {shape}", f"relu: {shape}"]

    inner = f"256x{quarter}x{quarter}"
    conv = f"conv 3/1 256>256: {inner}"
    block = [conv, f"instance norm: {inner}", f"relu: {inner}", conv, f"instance norm: {inner}", f"add: {inner}"]
    generator = [
        *stage("conv 7/1 3>64", 64, side),
        *stage("conv 3/2 64>128", 128, half),
        *stage("conv 3/2 128>256", 256, quarter),
        conv,  # bare
        *(9 * block),
        *stage("up 3/2 256>128", 128, half),
        *stage("up 3/2 128>64", 64, side),
        f"conv 7/1 64>3: 3x{side}x{side}",
        f"tanh: 3x{side}x{side}",
    ]
    discriminator, sides = [], [half, quarter, side // 8, side // 8 - 1]
    for before, after, stride, now in zip((3, 64, 128, 256), (64, 128, 256, 512), (2, 2, 2, 1), sides, strict=True):
        lines = stage(f"conv 4/{stride} {before}>{after}", after, now)
        discriminator += [line.replace("relu", "leaky 0.2") for line in lines]
    last = side // 8 - 2
    assert of(name) == (generator, [*discriminator, f"conv 4/1 512>1: 1x{last}x{last}"])
