"""Convolutions, resampling and activations: the plain ones' values, and derivatives of any order."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import conv2d, conv_transpose2d, interpolate, leaky_relu

from ganduel.models import winograd
from ganduel.models.convolution import (
    Conv2d,
    Resample,
    activate,
    convolve,
    convolve_enlarged,
    convolve_transposed,
    with_squares,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_differentiable(fn, *inputs: torch.Tensor) -> None:
    """Once, twice, and by torch.func.vjp within autograd, as penalties are."""
    assert gradcheck(fn, inputs) and gradgradcheck(fn, inputs)

    def penalty(*inputs: torch.Tensor) -> torch.Tensor:
        y, pull_back = torch.func.vjp(lambda x: fn(x, *inputs[1:]), inputs[0])
        return pull_back(torch.cos(y))[0].square().sum()

    assert gradcheck(penalty, inputs)


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 1, 1), (2, 0, 1), (2, 1, 1), (1, 1, 2), (2, 1, 4)])
def test_convolutions(stride, padding, groups):
    x, weight = draw(2, 4, 5, 5), draw(8, 4 // groups, 3, 3)
    settings = {"stride": stride, "padding": padding, "groups": groups}
    assert torch.equal(convolve(x, weight, **settings), conv2d(x, weight, **settings))
    assert_differentiable(lambda x, w: convolve(x, w, **settings), x, weight)
    weight = draw(4, 8 // groups, 3, 3)
    assert torch.equal(convolve_transposed(x, weight, **settings), conv_transpose2d(x, weight, **settings))
    assert_differentiable(lambda x, w: convolve_transposed(x, w, **settings), x, weight)


@pytest.mark.parametrize("images", [1, 5])  # of several sizes at once, and in two parts of different sizes
@pytest.mark.parametrize("height", [32, 33])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_winograd(images, height, padding, transposed):
    """Values and gradients of a direct convolution in double precision; it is taken where it suits."""
    kind = conv_transpose2d if transposed else conv2d
    change = (2 - 2 * padding) if transposed else (2 * padding - 2)
    x = torch.randn(images, 256, height - change, 36 - change).to(memory_format=torch.channels_last)
    weight = torch.randn(264, 256, 3, 3).mul(0.02).to(memory_format=torch.channels_last)
    weight = weight.transpose(0, 1) if transposed else weight
    assert winograd.suits(x, weight, 1, 2 - padding if transposed else padding)
    function = convolve_transposed if transposed else convolve
    results = []
    for fn, dtype in ((function, torch.float32), (kind, torch.float64)):
        inputs = [t.to(dtype).requires_grad_() for t in (x, weight)]
        y = fn(*inputs, padding=padding).mul_(1)  # in place, as biases and activations work
        results.append([y, *torch.autograd.grad(torch.sin(y).sum(), inputs)])
    for own, exact in zip(*results, strict=True):
        assert own.shape == exact.shape and (own - exact).norm() < 2e-5 * exact.norm()
    direct = kind(x, weight, padding=padding)
    own = function(x, weight, padding=padding)
    assert own.is_contiguous(memory_format=torch.channels_last) and not torch.equal(own, direct)


@pytest.mark.parametrize(
    "unfit",
    [
        {"dtype": torch.float64},
        {"dtype": torch.bfloat16},
        {"maps": 255},
        {"size": 13, "images": 9},
        {"size": 28, "images": 1},
        {"kernel": 5, "size": 34},
        {"stride": 2},
    ],
    ids=str,
)
def test_winograd_is_left_out_where_it_does_not_suit(unfit):
    fit = {"dtype": torch.float32, "maps": 256, "size": 32, "images": 2, "kernel": 3, "stride": 1}
    for settings, suits in ((fit, True), (fit | unfit, False)):
        dtype, maps, size, images, kernel, stride = settings.values()
        x = torch.zeros(images, maps, size, size, dtype=dtype)
        weight = torch.zeros(maps, maps, kernel, kernel, dtype=dtype)
        assert winograd.suits(x, weight, stride, 1) == suits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_weights_get_the_gradient_that_pytorch_gives_them(dtype, stride, transposed):
    """In single precision and strided, it takes another way."""
    own, theirs = (convolve_transposed, conv_transpose2d) if transposed else (convolve, conv2d)
    x = torch.randn(2, 8, 9, 9, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(8, 8, 3, 3, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn_like(theirs(x, weight, stride=stride))
    gradients = [torch.autograd.grad(f(x, weight, stride=stride), weight, upstream)[0].float() for f in (own, theirs)]
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-2 * gradients[1].abs().max()
    assert gradients[0].std() > 1


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [6, 7])
def test_layers_for_penalties(size, bias):
    """PyTorch's values and gradients; where the size fits the stride without its second derivative of convolutions."""
    own, theirs = (kind(3, 4, 4, 2, 1, bias=bias, dtype=torch.float64) for kind in (Conv2d, torch.nn.Conv2d))
    theirs.load_state_dict(own.state_dict())
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    gradients = []
    for layer in (own, theirs):
        y, pull_back = torch.func.vjp(layer, x)
        penalty = pull_back(y.cos())[0].square().sum()
        with torch.profiler.profile() as profile:
            gradients.append(torch.autograd.grad(penalty, [*layer.parameters()]))
        theirs_alone = "aten::_convolution_double_backward" in {event.name for event in profile.events()}
        assert theirs_alone == (layer is theirs or size == 7)
    assert torch.allclose(own(x), theirs(x))
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other) and one.abs().max() > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert own.float()(x.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"padding": (1, 1)}, lambda n: n - 1),
        ({"padding": (2, 2)}, lambda n: n + 1),
        ({"padding": (1, 1), "down": 2}, lambda n: n // 2),
        ({"padding": (2, 1), "up": 2}, lambda n: 2 * n),
    ],
)
def test_resampling(size, settings, expected):
    resample, x = Resample(gain=3.0, **settings).double(), draw(2, 3, size, size)
    y = resample(x)
    assert y.shape == (2, 3, expected(size), expected(size))
    assert_differentiable(resample, x[:1, :2].detach().requires_grad_())
    # One pixel: what comes out is the filter, or every second value of it, in every channel.
    pixel = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    pixel[:, 1, 4, 4] = 64
    filtered = Resample(padding=(2, 2)).double()(pixel)
    assert filtered[0, 0].abs().max() == 0
    rows = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    assert torch.equal(filtered[0, 1, 3:7, 3:7], torch.outer(rows, rows)) and filtered.sum() == 64


def test_resampling_halves_and_doubles_in_place():
    """A smooth picture stays where it is: no shift by half a pixel or more."""
    ramp = torch.arange(16.0).repeat(16, 1)[None, None]
    double = Resample(up=2, padding=(2, 1), gain=4.0)(ramp)
    wanted = interpolate(ramp, scale_factor=2, mode="bilinear")
    assert (double - wanted)[..., 4:-4, 4:-4].abs().max() < 1e-5
    half = Resample(down=2, padding=(1, 1))(ramp)
    assert (half - interpolate(ramp, scale_factor=0.5, mode="area"))[..., 2:-2, 2:-2].abs().max() < 1e-5


@pytest.mark.parametrize("clamp", [None, 0.5])
def test_activation(clamp):
    x = draw(2, 3, 5, 5)
    y = activate(x * 1.0, clamp)
    wanted = leaky_relu(x, 0.2)
    assert torch.equal(y, wanted if clamp is None else wanted.clamp(-clamp, clamp))
    assert_differentiable(lambda x: activate(x * 1.5, clamp), x)
    bias = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64, requires_grad=True)
    y = activate(torch.tensor([[0.5, 1.0, -3.0]], dtype=torch.float64), clamp, bias)  # vectors are activated, too
    assert y.tolist() == ([[1.5, -0.2, -0.6000000000000001]] if clamp is None else [[0.5, -0.2, -0.5]])
    assert_differentiable(lambda x: activate(x * 1.5, clamp, bias), x)
    assert_differentiable(lambda bias: activate(x.detach() * 1.5, clamp, bias), bias)


def test_weights_with_squares():
    weight = draw(3, 4, 3, 3)
    cast, squares = with_squares(weight, torch.float32)
    assert torch.equal(cast, weight.float()) and torch.allclose(squares, weight.square().sum(dim=(2, 3)))
    assert_differentiable(lambda w: with_squares(w, torch.float64)[0] * with_squares(w, torch.float64)[1].sum(), weight)
    gradients = [
        torch.autograd.grad(f(weight), weight)[0]
        for f in (
            lambda w: (
                with_squares(w, torch.float32)[0].double().sum() + with_squares(w, torch.float32)[1].square().sum()
            ),
            lambda w: w.float().double().sum() + w.square().sum(dim=(2, 3)).square().sum(),
        )
    ]
    assert torch.allclose(*gradients)


@pytest.mark.parametrize("size", [5, 8, 11])
def test_repeated_pixels_are_convolved_at_once(size: int) -> None:
    """The same as an enlargement and a 3x3 convolution, with the gradients of both."""
    x = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    found = convolve_enlarged(x, weight)
    wanted = conv2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), weight, padding=1)
    assert torch.allclose(found, wanted, atol=1e-12)
    direction = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad(y, (x, weight), direction) for y in (found, wanted)), strict=True):
        assert torch.allclose(one, other, atol=1e-11)
