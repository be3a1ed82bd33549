"""StyleGAN2 (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN") in the configuration and
with the numerics of StyleGAN2-ADA (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data").

Weights are stored at unit scale and multiplied at run time by what keeps the signal at unit scale, so that Adam moves
all layers alike (equalised learning rate). Gains, of leaky ReLU too, are multiplied into whatever tensor is small.

Under the trainer's autocast the largest resolutions run in half precision; the rest, the mapping, demodulation,
minibatch standard deviation and logits stay in float32. So these networks switch autocast off and cast by themselves.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ganduel import randomness
from ganduel.errors import UserError
from ganduel.game import Generator as Base
from ganduel.models.convolution import Resample, activate, convolve, convolve_transposed, squares

Noise = Literal["random", "constant", "none"]
NOISES = get_args(Noise)
Architecture = Literal["resnet", "orig"]

ROOT = math.sqrt(2)  # leaky ReLU halves the mean square; this puts it back


@contextmanager
def own_precision(device: torch.device) -> Iterator[torch.dtype]:
    """Switch autocast off; gives the type that it would have used, float32 where it was not on."""
    kind = device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    with torch.autocast(kind, enabled=False):
        yield half


def widths(resolution: int, base: int, most: int) -> dict[int, int]:
    """Feature maps of every size from 4 to the image's: as many as their size leaves of `base`, `most` at most."""
    if resolution < 16 or resolution > 1024 or resolution & (resolution - 1):
        raise ValueError(f"resolution={resolution} must be a power of two from 16 to 1024")
    if base < resolution or most < 1:
        raise ValueError(f"channel_base={base} must be at least the resolution {resolution}, channel_max={most} 1")
    return {2**i: min(base >> i, most) for i in range(2, resolution.bit_length())}


def in_half(size: int, resolution: int, resolutions: int) -> bool:
    """Whether feature maps of a size belong to the largest so many; the smallest ones never do."""
    return size > max(4, resolution >> resolutions)


class Dense(nn.Module):
    """(N, inputs) to (N, outputs), times `gain`; trained at `rate` times the learning rate."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.weight_gain, self.bias_gain = gain * rate / math.sqrt(inputs), gain * rate

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight.T, beta=self.bias_gain, alpha=self.weight_gain)


def normalise(x: Tensor) -> Tensor:
    """Every vector at unit mean square."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """Latents (N, latent), labels (N,) or both to styles (N, width); labels by an embedding of their own."""

    def __init__(self, latent: int, classes: int, width: int, layers: int, rate: float):
        super().__init__()
        if layers < 1 or not 0 < rate <= 1:
            raise ValueError(f"layers={layers} must be at least 1 and rate={rate} above 0, and at most 1")
        self.classes, self.layers = classes, layers
        if classes:
            self.embed = Dense(classes, width)
        sizes = [latent + (width if classes else 0), *[width] * layers]
        for i in range(layers):
            self.add_module(f"fc{i}", Dense(sizes[i], sizes[i + 1], rate=rate, gain=ROOT))

    def forward(self, latent: Tensor | None, label: Tensor | None) -> Tensor:
        parts = [] if latent is None else [normalise(latent)]
        if self.classes:
            if label is None:
                raise ValueError(f"a network of {self.classes} classes needs the images' labels")
            parts.append(normalise(self.embed(one_hot(label, self.classes).float())))
        x = torch.cat(parts, dim=1)
        for i in range(self.layers):
            x = activate(self.get_submodule(f"fc{i}")(x), clamp=None)
        return x


class StyledConvolution(nn.Module):
    """A 3x3 convolution whose weights an image's style scales an input channel at a time, and which are then normalised
    (equations 1 and 3); then noise, bias and leaky ReLU. Doubles the size where `up`.

    Rather than weights of its own for every image: scale the input, convolve with shared weights, scale the output.
    """

    noise_const: Tensor

    def __init__(
        self, inputs: int, outputs: int, width: int, size: int, *, up: bool, noise: Noise, clamp: float | None
    ):
        super().__init__()
        self.size, self.up, self.noise, self.clamp = size, up, noise, clamp
        self.affine = Dense(width, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise_const", torch.randn(size, size))
        if up:
            self.resample = Resample(padding=(1, 1), gain=4.0)

    def forward(self, x: Tensor, style: Tensor, seed: Tensor | None) -> Tensor:
        scale, weight = self.affine(style), self.weight
        demodulation = ROOT * (scale.square() @ squares(weight).T + 1e-8).rsqrt()
        if x.dtype == torch.float16:
            # No product may leave the narrow range of float16. What is taken from the factors, the output gets back.
            largest = scale.detach().abs().amax(dim=1, keepdim=True)
            norm = weight.detach().abs().amax(dim=(1, 2, 3)) * math.sqrt(weight[0].numel())
            scale, weight = scale / largest, weight / norm[:, None, None, None]
            demodulation = demodulation * largest * norm
        x = x * _per_map(scale, x)
        if self.up:
            weight = weight.transpose(0, 1).to(x.dtype, memory_format=torch.channels_last)
            x = self.resample(convolve_transposed(x, weight, stride=2))
        else:
            x = convolve(x, weight.to(x.dtype), padding=1)
        x = torch.addcmul((ROOT * self.bias).to(x.dtype)[:, None, None], x, _per_map(demodulation, x))
        if (noise := self.draw(seed)) is not None:
            x += (ROOT * self.noise_strength * noise).to(x.dtype)
        return activate(x, self.clamp)

    def draw(self, seed: Tensor | None) -> Tensor | None:
        """Noise for each pixel, (N, 1, size, size) hashed from the images' seeds or (size, size) for all; random noise
        without seeds is the constant one."""
        if self.noise == "none":
            return None
        if self.noise == "constant" or seed is None:
            return self.noise_const
        return randomness.normal(seed, (1, self.size, self.size), f"noise {self.size} {self.up}")


def _per_map(factors: Tensor, x: Tensor) -> Tensor:
    """Factors (N, C) as they multiply feature maps (N, C, H, W)."""
    return factors.to(x.dtype)[:, :, None, None]


class ToImage(nn.Module):
    """Feature maps to colours, by a 1x1 convolution that the style scales; no demodulation."""

    def __init__(self, inputs: int, image_channels: int, width: int, *, clamp: float | None):
        super().__init__()
        self.clamp = clamp
        self.affine = Dense(width, inputs, bias=1.0, gain=1 / math.sqrt(inputs))
        self.weight = nn.Parameter(torch.randn(image_channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(image_channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weight = self.affine(style)[:, None, :] * self.weight.flatten(1)  # (N, image_channels, inputs)
        y = x.permute(0, 2, 3, 1).flatten(1, 2) @ weight.to(x.dtype).mT + self.bias.to(x.dtype)
        if self.clamp is not None:
            y = y.clamp(-self.clamp, self.clamp)
        return y.mT.unflatten(2, x.shape[2:]).float()


class GeneratorBlock(nn.Module):
    """One resolution: one or two styled convolutions, and what they add to the image."""

    def __init__(
        self,
        inputs: int | None,
        outputs: int,
        image_channels: int,
        width: int,
        size: int,
        *,
        half: bool,
        noise: Noise,
        clamp: float | None,
    ):
        super().__init__()
        self.half = half
        if inputs is None:
            self.const = nn.Parameter(torch.randn(outputs, size, size))
        else:
            self.conv0 = StyledConvolution(inputs, outputs, width, size, up=True, noise=noise, clamp=clamp)
            self.resample = Resample(up=2, padding=(2, 1), gain=4.0)
        self.conv1 = StyledConvolution(outputs, outputs, width, size, up=False, noise=noise, clamp=clamp)
        self.torgb = ToImage(outputs, image_channels, width, clamp=clamp)
        self.convolutions = 1 if inputs is None else 2

    def forward(
        self, x: Tensor | None, image: Tensor | None, styles: list[Tensor], seed: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """`styles` are those of the convolutions and of the colours, (N, width) each."""
        if x is None:
            x = self.const.expand(len(styles[0]), *self.const.shape).contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x.to(dtype), styles[0], seed)
        x = self.conv1(x.to(dtype), styles[-2], seed)
        y = self.torgb(x, styles[-1])
        return x, y if image is None else y + self.resample(image)


class Generator(Base):
    """Latents (N, latent) by way of styles (N, layers, width), one a layer, to images (N, image_channels, resolution,
    resolution), about in [-1, 1]: the sum of what every resolution adds ("skip").

    In training, a share `mixing` of the images takes the styles of a second latent from a random layer on.
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        latent: int,
        classes: int,
        width: int,
        channel_base: int,
        channel_max: int,
        mapping: int,
        mapping_rate: float,
        mixing: float,
        average: float,
        noise: Noise,
        half_resolutions: int,
        clamp: float | None,
    ):
        super().__init__()
        if not 0 <= mixing <= 1 or not 0 <= average < 1:
            raise ValueError(f"mixing={mixing} must be from 0 to 1, average={average} too, and below 1")
        self.latent, self.classes, self.mixing, self.average = latent, classes, mixing, average
        self.mapping = Mapping(latent, classes, width, mapping, mapping_rate)
        self.mapping.register_buffer("w_avg", torch.zeros(width))
        maps = widths(resolution, channel_base, channel_max)
        self.blocks = nn.ModuleDict(
            {
                f"b{size}": GeneratorBlock(
                    maps.get(size // 2),
                    maps[size],
                    image_channels,
                    width,
                    size,
                    half=in_half(size, resolution, half_resolutions),
                    noise=noise,
                    clamp=clamp,
                )
                for size in maps
            }
        )
        self.layers = 2 * len(maps)  # every convolution, and the last colours; others share the next layer's style

    def style(self, latent: Tensor, seed: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        with own_precision(latent.device):
            w = self.mapping(latent, label)[:, None].expand(-1, self.layers, -1)
            if not self.training or seed is None or self.mixing == 0:
                return w
            other = self.mapping(randomness.normal(seed, (self.latent,), "mixed latent"), label)
            draw = randomness.uniform(seed, (2,), "mixing")
            first = 1 + (draw[:, 1] * (self.layers - 1)).floor()  # layer with the other style, from the second on
            first = torch.where(draw[:, 0] < self.mixing, first, self.layers)
            mixed = torch.arange(self.layers, device=w.device) >= first[:, None]
            return torch.where(mixed[:, :, None], other[:, None], w)

    def synthesis(self, style: Tensor, seed: Tensor | None = None) -> Tensor:
        with own_precision(style.device) as half:
            x = image = None
            styles, i = style.unbind(dim=1), 0
            for block in self.blocks.values():
                own = styles[i : i + block.convolutions + 1]
                x, image = block(x, image, own, seed, half if block.half else torch.float32)
                i += block.convolutions
            return image

    def set_noise(self, noise: str | list[str]) -> None:
        convolutions = [m for m in self.modules() if isinstance(m, StyledConvolution)]
        kinds = [noise] * len(convolutions) if isinstance(noise, str) else noise
        if len(kinds) != len(convolutions) or not {*kinds} <= {*NOISES}:
            raise UserError(
                f"noise={noise} is not allowed; it takes {', '.join(NOISES)}, or a list of {len(convolutions)} of them, "
                "from the smallest feature maps to the largest"
            )
        for convolution, kind in zip(convolutions, kinds, strict=True):
            convolution.noise = kind

    def truncate(self, style: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        near = torch.lerp(self.mapping.w_avg, style[:, :cutoff], psi)
        return near if cutoff is None else torch.cat([near, style[:, cutoff:]], dim=1)

    def settle(self, latent: Tensor, label: Tensor | None) -> None:
        """Let the average style follow."""
        with torch.no_grad():
            self.mapping.w_avg.lerp_(self.mapping(latent, label).mean(dim=0), 1 - self.average)


class Convolution(nn.Module):
    """A convolution of the discriminator, with leaky ReLU and a bias or, `linear`, without both; its output times
    `gain`. Halves the size where `down`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        down: bool = False,
        linear: bool = False,
        gain: float = 1.0,
        clamp: float | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = None if linear else nn.Parameter(torch.zeros(outputs))
        self.gain = gain if linear else gain * ROOT
        self.clamp = None if clamp is None else clamp * gain
        self.resample: Resample | None = None
        self.stride, self.padding = 1, kernel // 2
        if down and kernel == 1:  # the filter can leave out what the convolution would
            self.resample = Resample(down=2, padding=(1, 1))
        elif down:
            self.resample = Resample(padding=(2, 2))
            self.stride, self.padding = 2, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.resample is not None:
            x = self.resample(x)
        weight = (self.weight * (self.gain / math.sqrt(self.weight[0].numel()))).to(x.dtype)
        x = convolve(x, weight, stride=self.stride, padding=self.padding)
        if self.bias is None:
            return x
        x += (self.gain * self.bias).to(x.dtype)[:, None, None]
        return activate(x, self.clamp)


class DiscriminatorBlock(nn.Module):
    """One resolution: feature maps (N, inputs, H, W), made from the image where `image_channels`, to (N, outputs, H / 2,
    W / 2); with a shortcut around it where `resnet`."""

    def __init__(
        self,
        image_channels: int | None,
        inputs: int,
        outputs: int,
        *,
        architecture: Architecture,
        half: bool,
        clamp: float | None,
    ):
        super().__init__()
        self.half, self.resnet = half, architecture == "resnet"
        self.fromrgb = None if image_channels is None else Convolution(image_channels, inputs, 1, clamp=clamp)
        self.conv0 = Convolution(inputs, inputs, 3, clamp=clamp)
        # Of two branches that are added, each gets half of the power.
        gain = math.sqrt(0.5) if self.resnet else 1.0
        self.conv1 = Convolution(inputs, outputs, 3, down=True, gain=gain, clamp=clamp)
        if self.resnet:
            self.skip = Convolution(inputs, outputs, 1, down=True, linear=True, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        if self.fromrgb is not None:
            x = self.fromrgb(x).contiguous(memory_format=torch.channels_last)  # of grey images it is not
        y = self.conv1(self.conv0(x))
        return y + self.skip(x) if self.resnet else y


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """Append to (N, C, H, W) a map of the standard deviation over groups of images, averaged over all channels and
    pixels, so that D sees how varied a batch is (Karras et al. 2018, "Progressive Growing of GANs", section 3).

    Image i is in a group with i + N / group, i + 2 N / group, ...; where `group` does not divide N, its largest divisor
    below does.
    """
    group = next(g for g in range(min(group, len(x)), 0, -1) if len(x) % g == 0)
    y = x.unflatten(0, (group, -1))
    deviation = ((y - y.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)


class Head(nn.Module):
    """The smallest feature maps (N, inputs, 4, 4) to (N, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, stddev_group: int, clamp: float | None):
        super().__init__()
        self.stddev_group = stddev_group
        self.conv = Convolution(inputs + (stddev_group > 0), inputs, 3, clamp=clamp)
        self.fc = Dense(inputs * 16, inputs, gain=ROOT)
        self.out = Dense(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.stddev_group:
            x = minibatch_deviation(x, self.stddev_group)
        return self.out(activate(self.fc(self.conv(x).flatten(1)), clamp=None))


class Discriminator(nn.Module):
    """Images (N, image_channels, resolution, resolution) to logits (N,): at every resolution two convolutions, with a
    shortcut around them ("resnet") or none ("orig").

    With labels, the logit is the product of what it sees and of what the label stands for, mapped (Miyato and Koyama
    2018). The first `freeze` layers, counted from the image, stay as they are (Mo et al. 2020, "Freeze the
    Discriminator").
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        classes: int,
        architecture: Architecture,
        channel_base: int,
        channel_max: int,
        mapping: int,
        mapping_rate: float,
        stddev_group: int,
        freeze: int,
        half_resolutions: int,
        clamp: float | None,
    ):
        super().__init__()
        maps = widths(resolution, channel_base, channel_max)
        self.sizes = sorted(maps, reverse=True)[:-1]
        self.classes = classes
        for size in self.sizes:
            block = DiscriminatorBlock(
                image_channels if size == resolution else None,
                maps[size],
                maps[size // 2],
                architecture=architecture,
                half=in_half(size, resolution, half_resolutions),
                clamp=clamp,
            )
            self.add_module(f"b{size}", block)
        if stddev_group < 0 or freeze < 0:
            raise ValueError(f"stddev_group={stddev_group} and freeze={freeze} must be at least 0")
        self.b4 = Head(maps[4], maps[4] if classes else 1, stddev_group=stddev_group, clamp=clamp)
        if classes:
            self.mapping = Mapping(0, classes, maps[4], mapping, mapping_rate)
        for layer in [m for m in self.modules() if isinstance(m, Convolution)][:freeze]:
            layer.requires_grad_(False)

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        with own_precision(images.device) as half:
            x = images
            for size in self.sizes:
                block = self.get_submodule(f"b{size}")
                x = block(x.to(half if block.half else torch.float32, memory_format=torch.channels_last))
            y = self.b4(x.float())
            if self.classes:
                y = (y * self.mapping(None, label)).sum(dim=1) / math.sqrt(y.shape[1])
            return y.flatten()
