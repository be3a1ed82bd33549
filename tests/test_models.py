"""Networks: sizes, shapes, initialisation."""

import pytest
import torch

from ganduel.models import dcgan, mlp


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def dcgan_pair(
    resolution: int, image_channels: int = 3, channels: int = 4, depth: int | None = None, norm: str = "batch"
):
    common = {
        "resolution": resolution,
        "image_channels": image_channels,
        "channels": channels,
        "depth": depth,
        "norm": norm,
    }
    return dcgan.Generator(latent=10, **common), dcgan.Discriminator(**common)


def test_tutorial_parameter_counts():
    common = {"resolution": 64, "image_channels": 3, "channels": 64, "depth": None, "norm": "batch"}
    assert count(dcgan.Generator(latent=100, **common)) == 3_576_704
    assert count(dcgan.Discriminator(**common)) == 2_765_568


@pytest.mark.parametrize("resolution", range(28, 129))
def test_every_size(resolution):
    generator, discriminator = dcgan_pair(resolution, image_channels=1 + 2 * (resolution % 2))
    images = generator(torch.randn(2, 10))
    assert images.shape == (2, 1 + 2 * (resolution % 2), resolution, resolution)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (2,)


@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "none"])
@pytest.mark.parametrize("depth", [1, 2, 3, None])
def test_norms_and_depths(norm, depth):
    generator, discriminator = dcgan_pair(32, depth=depth, norm=norm)
    discriminator(generator(torch.randn(3, 10))).sum().backward()
    unused = [n for m in (generator, discriminator) for n, p in m.named_parameters() if p.grad is None]
    assert not unused
    kinds = {type(m).__name__ for m in generator.modules()} & {"BatchNorm2d", "GroupNorm", "InstanceNorm2d"}
    expected = {"batch": {"BatchNorm2d"}, "layer": {"GroupNorm"}, "instance": {"InstanceNorm2d"}, "none": set()}
    assert kinds == expected[norm]


def test_initialisation():
    generator, _ = dcgan_pair(64, channels=32)
    for name, p in generator.named_parameters():
        p = p.detach()
        if p.ndim == 4:
            assert float(p.std()) == pytest.approx(0.02, rel=0.2), name
            assert abs(float(p.mean())) < 0.01, name
        else:
            assert abs(float(p.mean()) - (1.0 if name.endswith("weight") else 0.0)) < 0.03, name


def test_layer_norm_is_over_channels_and_space():
    _, discriminator = dcgan_pair(32, norm="layer")
    norm = next(m for m in discriminator.modules() if isinstance(m, torch.nn.GroupNorm))
    torch.nn.init.ones_(norm.weight)
    x = torch.randn(2, norm.num_channels, 5, 5) * 3 + 1
    y = norm(x).detach()
    assert torch.allclose(y.mean((1, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(y.var((1, 2, 3), unbiased=False), torch.ones(2), atol=1e-3)


def test_vanilla_has_the_sizes_of_the_report():
    common = {"resolution": 28, "image_channels": 1}
    generator = mlp.Generator(latent=100, widths=[4096] * 4, norm="batch", **common)
    assert round(count(generator) / 1e6) == 54
    discriminator = mlp.Discriminator(widths=[1024, 512, 256], norm="none", dropout=0.3, **common)
    images = generator(torch.randn(4, 100))
    assert images.shape == (4, 1, 28, 28) and images.abs().max() <= 1
    assert discriminator(images).shape == (4,)


@pytest.mark.parametrize(
    ("resolution", "depth", "word"), [(8, None, "resolution=8"), (32, 4, "depth=4"), (32, 0, "depth=0")]
)
def test_impossible_sizes(resolution, depth, word):
    with pytest.raises(ValueError, match=word):
        dcgan_pair(resolution, depth=depth)
