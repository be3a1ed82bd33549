"""Triton's kernels, run by its interpreter on the CPU. Where PyTorch came without Triton, these tests are skipped."""

import pytest
import torch
from torch import Tensor

from ganduel.models import triton_kernels
from ganduel.models.convolution import Resample, activate

pytest.importorskip("triton")


@pytest.fixture
def on_cpu(monkeypatch):
    """Let the kernels take tensors of the CPU, and count their launches."""
    launched = []
    launch = triton_kernels._launch
    monkeypatch.setattr(triton_kernels, "available", lambda x: triton_kernels.enabled)
    monkeypatch.setattr(
        triton_kernels,
        "_launch",
        lambda name, *rest, **constants: (launched.append(name), launch(name, *rest, **constants)),
    )
    return launched


def draw(*shape: int) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return (x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()


def test_filter_of_one_pixel():
    """What comes out is the filter. Other channels stay 0."""
    pixel = torch.zeros(1, 2, 5, 5)
    pixel[0, 1, 2, 2] = 64
    found = triton_kernels.resample(pixel, Resample(padding=(2, 2)).taps[0, 0], 1, 1, (2, 2))
    rows = torch.tensor([1.0, 3.0, 3.0, 1.0])
    assert found.shape == (1, 2, 6, 6) and found[0, 0].abs().max() == 0
    assert torch.equal(found[0, 1, 1:5, 1:5], torch.outer(rows, rows)) and found.sum() == 64


def test_activation_by_hand():
    x = torch.tensor([[0.5, 1.0, -3.0, float("nan")]])
    y = triton_kernels.activate_(x, torch.tensor([1.0, -2.0, 0.0, 0.0]), 0.2, 1.25)
    assert y is x and torch.allclose(y, torch.tensor([[1.25, -0.2, -0.6, torch.nan]]), equal_nan=True)
    gradient = triton_kernels.activate_backward(
        torch.full((1, 4), 10.0), torch.tensor([[1.25, -0.2, 0.3, 0.0]]), 0.2, 1.25
    )
    assert gradient.tolist() == [[0.0, 2.0, 10.0, 2.0]]


@pytest.mark.parametrize("channels", [1, 3, 130])  # fewer than a program has, and more
@pytest.mark.parametrize(
    "settings",
    [{"padding": (1, 1)}, {"padding": (2, 2)}, {"padding": (1, 1), "down": 2}, {"padding": (2, 1), "up": 2}],
)
def test_filter_is_that_of_pytorch(settings, channels, on_cpu, monkeypatch):
    compare(lambda x: Resample(gain=3.0, **settings)(x), draw(2, channels, 6, 4), on_cpu, monkeypatch, "low_pass")


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 130, 2, 2), (3, 7)])
@pytest.mark.parametrize("clamp", [None, 0.5])
def test_activation_is_that_of_pytorch(shape, clamp, on_cpu, monkeypatch):
    bias = draw(shape[1])

    def function(x: Tensor) -> Tensor:
        return activate(x * 1.5, clamp, bias) + activate(x * 0.5, clamp)

    compare(function, draw(*shape), on_cpu, monkeypatch, "activate", bias)


def test_what_lies_otherwise_in_memory(on_cpu, monkeypatch):
    """Activations work in place, so maps that are not channels_last are left to PyTorch."""
    x = draw(2, 3, 4, 4).detach().contiguous()
    compare(lambda x: activate(x * 1.0, 0.5), x.requires_grad_(), on_cpu, monkeypatch, "activate_backward")
    assert "activate" not in on_cpu


def compare(function, x, launched, monkeypatch, kernel, *others):
    """Values, gradients, and gradients of a function of the gradients: with the kernels and without."""

    def everything() -> list[Tensor]:
        y = function(x)
        (of_x,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
        return [y, of_x, *torch.autograd.grad((of_x.sin() * of_x).sum(), [x, *others])]

    found = everything()
    assert kernel in launched
    count = len(launched)
    monkeypatch.setattr(triton_kernels, "enabled", False)
    expected = everything()
    assert len(launched) == count
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and theirs.abs().max() > 0
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_kernels_that_do_not_run_are_said_once(monkeypatch, capsys):
    """As without a C compiler, which Triton needs to start its kernels."""

    def fail(*arguments, **constants):
        raise RuntimeError("Failed to find\na C compiler")

    triton_kernels.works.cache_clear()
    monkeypatch.setattr(triton_kernels, "_launch", fail)
    assert not triton_kernels.works(torch.device("cpu")) and not triton_kernels.works(torch.device("cpu"))
    said = capsys.readouterr().err
    assert said.count("note: triton: its kernels do not run here (Failed to find a C compiler)") == 1
    triton_kernels.works.cache_clear()
    monkeypatch.undo()
    assert triton_kernels.works(torch.device("cpu"))
    triton_kernels.works.cache_clear()
