"""DCGAN (Radford, Metz and Chintala 2016) with the widths and the initialisation of PyTorch's tutorial, for any square
size from 16 pixels, and with common variations.

Both networks are lists of stages with one convolution each. A stage is the convolution with its normalisation or style,
then leaky ReLU, dropout and self-attention. A shortcut around the whole stage is optional.
"""

import math
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from ganduel import game
from ganduel.models.convolution import Conv2d
from ganduel.models.dcgan_style import Adaptive, Convolution, Demodulated, Mapping
from ganduel.models.layers import (
    Norm,
    Output,
    SelfAttention,
    initialise_normal,
    norm2d,
    normalise_spectrally,
    output_layer,
)

Ends = Literal["convolution", "dense"]
Upsampling = Literal["transposed", "nearest", "bilinear"]
STYLES = {"adain": Adaptive, "demodulation": Demodulated}


def plan(
    resolution: int, channels: int | list[int], depth: int | None, strides: list[int] | None
) -> tuple[list[int], list[int]]:
    """The widths and the strides of all stages.

    A list of `channels` gives the widths. A number gives `depth` widths from the image inwards: `channels`,
    2 `channels`, 4 `channels`, ... The default depth leaves 4 to 7 pixels: 64 = 4 * 2^4, 28 = 7 * 2^2. The default
    strides are 2. Raises ValueError if the arguments do not fit each other or the resolution (pixels, at least 16).
    """
    if resolution < 16:
        raise ValueError(f"resolution={resolution} is too small for convolutions: 16 or more")
    if isinstance(channels, list):
        if depth is not None:
            raise ValueError(
                f"depth={depth} beside channels={channels}: the length of the list is the depth; set depth=null"
            )
        widths = channels
    else:
        deepest = int(math.log2(resolution / 4))
        if not 1 <= (depth or deepest) <= deepest or depth == 0:
            raise ValueError(f"depth={depth} does not fit resolution {resolution}: 1 to {deepest}, or null")
        widths = [channels * 2**i for i in range(depth or deepest)]
    strides = [2] * len(widths) if strides is None else strides
    if not widths or min(widths) < 1:
        raise ValueError(f"channels={channels} every width must be at least 1")
    if len(strides) != len(widths) or not {*strides} <= {1, 2}:
        raise ValueError(f"strides={strides} must be {len(widths)} numbers, 1 or 2, one for each of channels={widths}")
    if math.prod(strides) >= resolution:
        raise ValueError(f"{strides.count(2)} stages of stride 2 are too many for {resolution} pixels; take fewer")
    return widths, strides


def convolution(before: int, after: int, kernel: int, stride: int, bias: bool) -> nn.Conv2d:
    """A convolution that halves the size at stride 2 and keeps it at stride 1.

    At stride 1, an even kernel becomes one smaller, because it could not keep the size.
    """
    kernel -= stride == 1 and kernel % 2 == 0
    return Conv2d(before, after, kernel, stride, (kernel - 1) // 2, bias=bias)


def upconvolution(
    kind: Upsampling, before: int, after: int, kernel: int, stride: int, bias: bool
) -> tuple[nn.Module, Convolution]:
    """(resize, convolution), which together double the size at stride 2 and keep it at stride 1.

    Either the convolution is transposed and doubles the size, or `resize` interpolates before an ordinary convolution.
    """
    if stride == 2 and kind == "transposed":
        padding, extra = (kernel - 1) // 2, kernel % 2
        return nn.Identity(), nn.ConvTranspose2d(before, after, kernel, 2, padding, extra, bias=bias)
    resize = nn.Upsample(scale_factor=2, mode=kind) if stride == 2 else nn.Identity()
    return resize, convolution(before, after, kernel, 1, bias)


class Stage(nn.Module):
    """`layer`, then `rest`, with an optional `shortcut` around both (He et al. 2016). Only `layer` gets w."""

    def __init__(self, layer: nn.Module, rest: nn.Module, shortcut: nn.Module | None):
        super().__init__()
        self.layer, self.rest, self.shortcut = layer, rest, shortcut

    def forward(self, x: Tensor, *w: Tensor) -> Tensor:
        y = self.rest(self.layer(x, *w))
        return y if self.shortcut is None else y + self.shortcut(x)


def _rest(width: int, slope: float, dropout: float, attention: bool) -> nn.Sequential:
    layers = [nn.LeakyReLU(slope, inplace=True), nn.Dropout(dropout), *([SelfAttention(width)] if attention else [])]
    return nn.Sequential(*layers)


def _shortcut(resize: nn.Module, before: int, after: int) -> nn.Sequential:
    return nn.Sequential(resize, nn.Conv2d(before, after, 1, bias=False))


def _check(kernel: int, slope: float, attention: int | None, sizes: list[int]) -> None:
    """Raise ValueError for a wrong setting of either network. `sizes` are those of its feature maps, in pixels."""
    if not 3 <= kernel <= 7:
        raise ValueError(f"kernel={kernel} must be 3 to 7")
    if not 0 <= slope <= 1:
        raise ValueError(f"slope={slope} must be from 0 to 1")
    if attention is not None and attention not in sizes:
        raise ValueError(f"attention={attention} must be the size of a feature map: {', '.join(map(str, sizes))}")


class Generator(game.Generator):
    """Latent (N, latent) to images (N, image_channels, resolution, resolution) in (-1, 1): `synthesis(mapping(z))`.

    The first layer makes the smallest feature maps. Each stage doubles their size (stride 2) or keeps it (stride 1), up
    to the image. If the resolution is not a multiple of the product of all strides, the stages make the next larger
    multiple, and the image is cut from its middle. A list of `channels` gives the widths in this order; a number is the
    width next to the image. With `output_norm`, the image is normalised before tanh. Raises ValueError.
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        latent: int,
        channels: int | list[int],
        depth: int | None,
        strides: list[int] | None,
        kernel: int,
        input: Ends,
        upsampling: Upsampling,
        norm: Norm | Literal["adain", "demodulation"],
        slope: float,
        dropout: float,
        residual: bool,
        attention: int | None,
        mapping: int,
        mapping_rate: float,
        spectral_norm: bool,
        output_norm: bool,
    ):
        super().__init__()
        if latent < 1 or mapping < 0:
            raise ValueError(f"latent={latent} must be at least 1, mapping={mapping} at least 0")
        if not 0 < mapping_rate <= 1:
            raise ValueError(f"mapping_rate={mapping_rate} must be above 0, and at most 1")
        self.latent, self.resolution = latent, resolution
        widths, strides = plan(resolution, channels, depth, strides)
        if not isinstance(channels, list):
            widths, strides = widths[::-1], strides[::-1]
        size = math.ceil(resolution / math.prod(strides))
        sizes = [size * math.prod(strides[:i]) for i in range(1, len(strides))]  # after each stage but the last
        _check(kernel, slope, attention, sizes)
        self.mapping = Mapping(latent, mapping, mapping_rate) if mapping else nn.Identity()
        self.has_mapping = mapping > 0
        self.styled = norm in STYLES
        # No style changes the first feature maps, so they get layer normalisation: demodulation would leave them as
        # small as they start.
        plain: Norm = "layer" if norm == "adain" or norm == "demodulation" else norm
        bias = plain == "none"
        first: list[nn.Module] = [nn.ConvTranspose2d(latent, widths[0], size, bias=bias)]
        if input == "dense":
            first = [nn.Flatten(), nn.Linear(latent, widths[0] * size**2), nn.Unflatten(1, (widths[0], size, size))]
        self.input = nn.Sequential(*first, norm2d(plain, widths[0], running=True), nn.LeakyReLU(slope, inplace=True))
        self.stages = nn.ModuleList()
        for (before, after), stride, size in zip(pairwise(widths), strides, sizes, strict=False):
            parts = upconvolution(upsampling, before, after, kernel, stride, bias=norm == "none")
            layer = (
                STYLES[norm](*parts, latent)
                if self.styled
                else nn.Sequential(*parts, norm2d(plain, after, running=True))
            )
            rest = _rest(after, slope, dropout, attention == size)
            shortcut = _shortcut(nn.Upsample(scale_factor=stride), before, after) if residual else None
            self.stages.append(Stage(layer, rest, shortcut))
        last = upconvolution(upsampling, widths[-1], image_channels, kernel, strides[-1], bias)
        self.output = nn.Sequential(
            *last, *([norm2d(plain, image_channels, running=True)] if output_norm else []), nn.Tanh()
        )
        for part in (self.input, self.stages, self.output):
            initialise_normal(part, 0.02)
            if spectral_norm:
                normalise_spectrally(part)

    def map_latent(self, latent: Tensor, seed: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        return self.mapping(latent)

    def synthesis(self, w: Tensor, seed: Tensor | None = None) -> Tensor:
        given = (w,) if self.styled else ()
        x = self.input(w[:, :, None, None])
        for stage in self.stages:
            x = stage(x, *given)
        images = self.output(x)
        margin = (images.shape[-1] - self.resolution) // 2
        return images[..., margin : margin + self.resolution, margin : margin + self.resolution]


class Discriminator(nn.Module):
    """Images (N, image_channels, resolution, resolution) to logits (N,); with output="sigmoid", to probabilities.

    It mirrors the generator. Each stage halves the size (stride 2) or keeps it (stride 1), and the last layer sees the
    whole of the smallest feature maps. A list of `channels` gives the widths from the image inwards. Raises ValueError.
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        channels: int | list[int],
        depth: int | None,
        strides: list[int] | None,
        kernel: int,
        padding: int,
        head: Ends,
        norm: Norm,
        slope: float,
        dropout: float,
        residual: bool,
        attention: int | None,
        spectral_norm: bool,
        output: Output,
    ):
        super().__init__()
        if padding < 0:
            raise ValueError(f"padding={padding} must be at least 0")
        self.output = output
        # 1: D judges each image alone. 0: its outputs depend on the batch statistics or the power iterations of a pass.
        self.group_size = 0 if norm == "batch" or spectral_norm else 1
        widths, strides = plan(resolution, channels, depth, strides)
        size, sizes = resolution + 2 * padding, []
        for stride in strides:
            size = size if stride == 1 else (size + kernel % 2) // 2  # odd kernels are centred, so sizes round up
            sizes.append(size)
        if size < 2:
            raise ValueError(f"feature maps of {sizes} pixels must keep 2; take fewer stages of stride 2")
        _check(kernel, slope, attention, sizes)
        bias = norm == "none"
        layers: list[nn.Module] = [nn.ZeroPad2d(padding)] if padding else []
        for i, (before, after) in enumerate(pairwise([image_channels, *widths])):
            layer = nn.Sequential(
                convolution(before, after, kernel, strides[i], bias),
                norm2d(norm if i else "none", after, running=False),  # the first stage has none, as in the paper
            )
            rest = _rest(after, slope, dropout, attention == sizes[i])
            pool = nn.AvgPool2d(strides[i], ceil_mode=kernel % 2 == 1)
            layers.append(Stage(layer, rest, _shortcut(pool, before, after) if residual else None))
        if head == "dense":
            layers += [nn.Flatten(), nn.Linear(widths[-1] * size**2, 1)]
        else:
            layers += [nn.Conv2d(widths[-1], 1, size, bias=bias)]
        self.layers = nn.Sequential(*layers, output_layer(output))
        initialise_normal(self, 0.02)
        if spectral_norm:
            normalise_spectrally(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten()
