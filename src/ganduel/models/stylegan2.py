"""The generator of StyleGAN2 (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN") with the
numerics of StyleGAN2-ADA (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data").

Under the trainer's autocast, the largest resolutions run in half precision. The other resolutions, the mapping and
the demodulation stay in float32.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ganduel import randomness
from ganduel.game import Generator as Base
from ganduel.models.convolution import Resample, activate, convolve, convolve_transposed, modulated, with_squares
from ganduel.models.stylegan2_layers import ROOT, Dense, Mapping, own_precision, runs_in_half, widths
from ganduel.system.errors import UserError

Noise = Literal["random", "constant", "none"]
NOISES = get_args(Noise)


class StyledConvolution(nn.Module):
    """A modulated 3x3 convolution, then noise, bias and leaky ReLU. `up` doubles the size.

    The layer A (`affine`) turns w (N, width) into the style (N, inputs), which scales the input channels (Karras et al.
    2020, section 2.2).
    """

    noise_const: Tensor

    def __init__(
        self, inputs: int, outputs: int, width: int, size: int, *, up: bool, noise: Noise, clamp: float | None
    ):
        super().__init__()
        self.size, self.up, self.clamp = size, up, clamp
        self.noise: str = noise
        self.affine = Dense(width, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise_const", torch.randn(size, size))
        if up:
            self.resample = Resample(padding=(1, 1), gain=4.0)

    def forward(self, x: Tensor, w: Tensor, seed: Tensor | None) -> Tensor:
        style: Tensor = self.affine(w)
        weight: Tensor = self.weight
        epsilon: Tensor | float = 1e-8
        if x.dtype == torch.float16:
            # No product may leave the narrow range of float16. Demodulation undoes the division of both factors.
            largest = style.detach().abs().amax(dim=1, keepdim=True)
            norm = weight.detach().abs().amax(dim=(1, 2, 3)) * math.sqrt(weight[0].numel())
            style, weight = style / largest, weight / norm[:, None, None, None]
            epsilon = epsilon / (largest * norm).square()
        weight, squares = with_squares(weight, x.dtype)

        def convolution(x: Tensor) -> Tensor:
            if not self.up:
                return convolve(x, weight, padding=1)
            turned = weight.transpose(0, 1).contiguous(memory_format=torch.channels_last)
            return self.resample(convolve_transposed(x, turned, stride=2))

        noise = self.draw(seed)
        offset = None if noise is None else ROOT * self.noise_strength * noise
        x = modulated(x, convolution, squares, style, offset, gain=ROOT, epsilon=epsilon)
        return activate(x, self.clamp, ROOT * self.bias)

    def draw(self, seed: Tensor | None) -> Tensor | None:
        """Noise per pixel: (N, 1, size, size) from the images' seeds, the constant noise (size, size), or None.

        Without seeds, random noise becomes the constant noise.
        """
        if self.noise == "none":
            return None
        if self.noise == "constant" or seed is None:
            return self.noise_const
        return randomness.normal(seed, (1, self.size, self.size), f"noise {self.size} {self.up}")


class ToImage(nn.Module):
    """Feature maps to colours, by a modulated 1x1 convolution without demodulation."""

    def __init__(self, inputs: int, image_channels: int, width: int, *, clamp: float | None):
        super().__init__()
        self.clamp = clamp
        self.affine = Dense(width, inputs, bias=1.0, gain=1 / math.sqrt(inputs))
        self.weight = nn.Parameter(torch.randn(image_channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(image_channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight = self.affine(w)[:, None, :] * self.weight.flatten(1)  # (N, image_channels, inputs)
        y = x.permute(0, 2, 3, 1).flatten(1, 2) @ weight.to(x.dtype).mT + self.bias.to(x.dtype)
        if self.clamp is not None:
            y = y.clamp(-self.clamp, self.clamp)
        return y.mT.unflatten(2, x.shape[2:]).float()


class GeneratorBlock(nn.Module):
    """The layers of one resolution: one or two styled convolutions, and the colours that they add to the image."""

    def __init__(
        self,
        inputs: int | None,
        outputs: int,
        image_channels: int,
        width: int,
        size: int,
        *,
        in_half: bool,
        noise: Noise,
        clamp: float | None,
    ):
        super().__init__()
        self.in_half = in_half
        if inputs is None:
            self.const = nn.Parameter(torch.randn(outputs, size, size))
        else:
            self.conv0 = StyledConvolution(inputs, outputs, width, size, up=True, noise=noise, clamp=clamp)
            self.resample = Resample(up=2, padding=(2, 1), gain=4.0)
        self.conv1 = StyledConvolution(outputs, outputs, width, size, up=False, noise=noise, clamp=clamp)
        self.torgb = ToImage(outputs, image_channels, width, clamp=clamp)
        self.convolutions = 1 if inputs is None else 2

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: list[Tensor], seed: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """`ws` holds one w (N, width) for each convolution and one for the colours."""
        if x is None:
            x = self.const.expand(len(ws[0]), *self.const.shape).contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x.to(dtype), ws[0], seed)
        x = self.conv1(x.to(dtype), ws[-2], seed)
        y = self.torgb(x, ws[-1])
        return x, y if image is None else y + self.resample(image)


class Generator(Base):
    """StyleGAN2's generator (Karras et al. 2020): latents (N, latent) to images, about in [-1, 1].

    `map_latent` gives w (N, layers, width), one per layer. The images (N, image_channels, resolution, resolution) are
    sums over all resolutions, because every block adds its colours ("skip"). In training, a share `mixing` of the
    images uses the w of a second latent from a random layer on.
    """

    has_mapping = True

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
                    in_half=runs_in_half(size, resolution, half_resolutions),
                    noise=noise,
                    clamp=clamp,
                )
                for size in maps
            }
        )
        self.layers = 2 * len(maps)  # all convolutions and the last colours; other colours share the next layer's w

    def map_latent(self, latent: Tensor, seed: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        with own_precision(latent.device):
            w = self.mapping(latent, label)[:, None].expand(-1, self.layers, -1)
            if not self.training or seed is None or self.mixing == 0:
                return w
            other = self.mapping(randomness.normal(seed, (self.latent,), "mixed latent"), label)
            draw = randomness.uniform(seed, (2,), "mixing")
            first = 1 + (draw[:, 1] * (self.layers - 1)).floor()  # the first layer with the other w, from the second on
            first = torch.where(draw[:, 0] < self.mixing, first, self.layers)
            mixed = torch.arange(self.layers, device=w.device) >= first[:, None]
            return torch.where(mixed[:, :, None], other[:, None], w)

    def synthesis(self, w: Tensor, seed: Tensor | None = None) -> Tensor:
        with own_precision(w.device) as half:
            x: Tensor | None = None
            image: Tensor | None = None
            ws, i = w.unbind(dim=1), 0
            for block in self.blocks.values():
                assert isinstance(block, GeneratorBlock)
                own = ws[i : i + block.convolutions + 1]
                x, image = block(x, image, own, seed, half if block.in_half else torch.float32)
                i += block.convolutions
        assert image is not None
        return image

    def set_noise(self, noise: str | list[str]) -> None:
        convolutions = [m for m in self.modules() if isinstance(m, StyledConvolution)]
        kinds = [noise] * len(convolutions) if isinstance(noise, str) else noise
        if len(kinds) != len(convolutions) or not {*kinds} <= {*NOISES}:
            raise UserError(
                f"noise={noise} is not allowed; it takes {', '.join(NOISES)}, or a list of {len(convolutions)} of "
                "them, from the smallest feature maps to the largest"
            )
        for convolution, kind in zip(convolutions, kinds, strict=True):
            convolution.noise = kind

    def truncate(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        near = torch.lerp(self.mapping.w_avg, w[:, :cutoff], psi)
        return near if cutoff is None else torch.cat([near, w[:, cutoff:]], dim=1)

    def update_w_average(self, latent: Tensor, label: Tensor | None) -> None:
        with torch.no_grad():
            self.mapping.w_avg.lerp_(self.mapping(latent, label).mean(dim=0), 1 - self.average)
