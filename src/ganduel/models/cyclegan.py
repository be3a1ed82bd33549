"""CycleGAN (Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks").

The networks are fully convolutional, so a model trained at one size also translates images of other sizes.
"""

import math
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, pad

from ganduel import randomness
from ganduel.augment import Chain
from ganduel.data.image_set import ImageSet, Pair, normalise
from ganduel.game import AugmentedDiscriminator, Batch, Comparison, Duel, Game
from ganduel.models.convolution import Conv2d
from ganduel.models.layers import Norm, initialise_normal, norm2d
from ganduel.system import distributed

STD = 0.02  # standard deviation of the initial weights (the paper's appendix)
ROWS = 8  # test images per domain in the pictures of a run
MAKER = {"A": "B2A", "B": "A2B"}  # domain -> the generator that makes its images
OTHER = {"A": "B", "B": "A"}


class CycleGame(Game):
    """Two domains, A and B, of unpaired images, two generators and two discriminators.

    The discriminator D_A sees images of A, D_B images of B. An image that is translated to the other domain and back
    should stay the same.
    """

    domains = ("A", "B")
    sampling = " mode=translate input=PHOTO_OR_FOLDER direction=A2B"

    def __init__(
        self,
        generator_A2B: nn.Module,
        generator_B2A: nn.Module,
        discriminator_A: nn.Module,
        discriminator_B: nn.Module,
        cycle: float,
        identity: float,
        pool_size: int,
        resolution: int,
        image_channels: int,
        augment: Chain,
        pack: int = 1,
    ):
        """`cycle` and `identity` are the weights of two mean absolute differences; see `auxiliary_losses`.

        `pool_size` is the number of older fakes in each domain's pool, 0 for none. They have `resolution` pixels a
        side. Raises ValueError for negative numbers.
        """
        if min(cycle, identity, pool_size) < 0:
            raise ValueError(f"cycle={cycle}, identity={identity} and pool_size={pool_size} must be 0 or more")
        super().__init__(
            {"A2B": generator_A2B, "B2A": generator_B2A},
            {"D_A": discriminator_A, "D_B": discriminator_B},
            augment,
            pack,
        )
        self.cycle, self.identity = cycle, identity
        weights = {"cycle": cycle, "identity": identity}
        self.auxiliary_names = tuple(
            f"{n}_{domain}" for domain in self.domains for n, weight in weights.items() if weight
        )
        shape = image_channels, resolution, resolution
        self.pools = nn.ModuleDict({f"_{domain}": ImagePool(pool_size, shape) for domain in self.domains if pool_size})

    def duels(self, batch: Batch, generators: nn.ModuleDict) -> list[Duel]:
        return [self.duel(domain, other, batch, generators[MAKER[domain]]) for domain, other in OTHER.items()]

    def duel(self, domain: str, other: str, batch: Batch, maker: nn.Module) -> Duel:
        name = f"_{domain}"
        return Duel(
            name=name,
            discriminator=AugmentedDiscriminator(
                self.discriminators[f"D{name}"], self.augment[f"D{name}"], batch["seed"], pack=self.pack
            ),
            real=batch[domain],
            source=batch[other],
            generator=lambda images, seed, label: maker(images),
            seed=batch["seed"],
            pack=self.pack,
        )

    def auxiliary_losses(self, batch: Batch, duels: list[Duel]) -> dict[str, Tensor]:
        """Weighted mean absolute differences of the real images of each domain from generated ones (the paper, equation
        2 and section 5.2).

        "cycle" compares with the image translated there and back. "identity" compares with the output of the generator
        that makes images of the same domain.
        """
        of, terms = {duel.name: duel for duel in duels}, {}
        for domain, other in OTHER.items():
            real, maker = batch[domain], of[f"_{domain}"]
            wanted = {"cycle": (self.cycle, of[f"_{other}"].fake), "identity": (self.identity, real)}
            wanted = {name: pair for name, pair in wanted.items() if pair[0]}
            if wanted:  # one pass for both is faster than two
                both = torch.cat([images for _, images in wanted.values()])
                made = maker.generator(both, maker.seed, None).float()
                for (name, (weight, _)), images in zip(wanted.items(), made.split(len(real)), strict=True):
                    terms[f"{name}_{domain}"] = weight * (images - real).abs().mean()
        return terms

    def from_pool(self, fakes: Batch, seed: Tensor) -> Batch:
        if not self.pools:
            return fakes
        seeds = distributed.gather(seed)
        return {name: distributed.own(self.pools[name](distributed.gather(x), seeds)) for name, x in fakes.items()}

    def translator(self, generators: nn.ModuleDict, direction: str) -> nn.Module:
        return generators[direction]

    def show(self, generators: nn.ModuleDict, images: ImageSet | Pair, batch: int) -> tuple[Tensor, int]:
        """Eight columns, four per domain: whole test images, the output of their own domain's generator, their
        translations, and the translations back."""
        assert isinstance(images, Pair)
        rows = min(ROWS, *(len(side.tested) for side in images.sides.values()))
        columns = []
        for domain, other in OTHER.items():
            side, back, there = images.sides[domain].wholes(), generators[MAKER[domain]], generators[MAKER[other]]
            real = normalise(side.gather(side.tested[:rows]))
            translated = put_through(there, real, batch)
            columns += [real, put_through(back, real, batch), translated, put_through(back, translated, batch)]
        return torch.stack(columns, dim=1).flatten(0, 1), len(columns)

    def comparisons(self, generators: nn.ModuleDict, images: ImageSet | Pair) -> list[Comparison]:
        """The test images of each domain against translated test images of the other. All are whole, as in the paper's
        tests."""
        assert isinstance(images, Pair)

        def translated(domain: str, other: ImageSet, numbers: range, seed: int) -> Tensor:
            real = normalise(other.gather(other.tested[numbers.start : numbers.stop]))
            return put_through(generators[MAKER[domain]], real, len(real))

        found = []
        for domain, name in OTHER.items():
            side, other = images.sides[domain].wholes(), images.sides[name].wholes()
            found.append(
                Comparison(f"_{domain}", partial(translated, domain, other), len(other.tested), side, side.tested)
            )
        return found


def put_through(generator: nn.Module, images: Tensor, batch: int) -> Tensor:
    """The generator's outputs for images (N, C, H, W), `batch` at once, float32, without gradients."""
    with torch.no_grad():
        return torch.cat([generator(part).float() for part in images.split(batch)])


class ImagePool(nn.Module):
    """A pool of `size` older fakes of `shape` (C, H, W) (Shrivastava et al. 2017, section 2.3).

    New fakes fill the pool, and D sees them. Once it is full, D sees each new fake with probability 1/2. Otherwise D
    sees a random older one, and the new fake takes its place in the pool. The random numbers are hashed from the
    images' seeds. Nothing waits for the device.
    """

    images: Tensor
    count: Tensor

    def __init__(self, size: int, shape: tuple[int, int, int]):
        super().__init__()
        self.register_buffer("images", torch.zeros(size, *shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, fakes: Tensor, seed: Tensor) -> Tensor:
        """The images (N, C, H, W) that D sees instead of the new fakes. Updates the pool in the order of the fakes."""
        size = len(self.images)
        coin, place = randomness.uniform(seed, (2,), "replay").unbind(1)
        places = (place * size).long()
        met = []
        for fake, older, number in zip(fakes.split(1), (coin < 0.5).split(1), places.split(1), strict=True):
            full = self.count == size
            index = torch.where(full, number, self.count)  # length 1, because the host would wait for a plain number
            kept = self.images.index_select(0, index)
            met.append(torch.where(full & older, kept, fake))
            self.images.index_copy_(0, index, torch.where(full & ~older, kept, fake))
            self.count += ~full
        return torch.cat(met)


class InstanceNorm(nn.Module):
    """Normalises each feature map of each image to mean 0 and variance 1, without a gain or a bias."""

    def forward(self, x: Tensor) -> Tensor:
        # Batch normalisation of one image at a time. PyTorch's instance normalisation loses channels_last, the format
        # that is fast for convolutions, and takes five times as long.
        images = [batch_norm(image, None, None, training=True) for image in x.split(1)]
        return torch.cat(images) if len(images) > 1 else images[0]


def normalisation(kind: Norm, channels: int, *, running: bool) -> nn.Module:
    """`norm2d`, except that the paper's instance normalisation has no parameters."""
    return InstanceNorm() if kind == "instance" else norm2d(kind, channels, running=running)


class ResNetGenerator(nn.Module):
    """Translates images (N, image_channels, H, W) to images of the same shape in (-1, 1). H and W are multiples of 4.

    Two layers halve the size. Then come `neck` bare 3x3 convolutions (0 in the paper, 1 in report R4), without a
    normalisation or an activation, and `blocks` residual blocks. Two layers double the size again. `padding` applies to
    all convolutions that keep the size. Raises ValueError for negative numbers.
    """

    multiple = 4
    least = 8  # a smaller image has too few pixels for mirror padding

    def __init__(
        self,
        *,
        image_channels: int,
        channels: int,
        blocks: int,
        neck: int,
        padding: Literal["reflect", "zeros"],
        norm: Norm,
        dropout: float,
    ):
        super().__init__()
        if min(blocks, neck) < 0:
            raise ValueError(f"blocks={blocks} and neck={neck} must be 0 or more")
        inner = 4 * channels

        def stage(layer: nn.Module, after: int) -> list[nn.Module]:
            return [layer, normalisation(norm, after, running=True), nn.ReLU(inplace=True)]

        def halving(before: int, after: int) -> nn.Module:
            return nn.Conv2d(before, after, 3, stride=2, padding=1)

        def doubling(before: int, after: int) -> nn.Module:
            return nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)

        self.layers = nn.Sequential(
            *stage(WideConvolution(image_channels, channels, 7, padding), channels),
            *stage(halving(channels, 2 * channels), 2 * channels),
            *stage(halving(2 * channels, inner), inner),
            *(Convolution(inner, inner, 3, padding) for _ in range(neck)),
            *(
                Residual(
                    *stage(Convolution(inner, inner, 3, padding), inner),
                    *([nn.Dropout(dropout)] if dropout else []),
                    Convolution(inner, inner, 3, padding),
                    normalisation(norm, inner, running=True),
                )
                for _ in range(blocks)
            ),
            *stage(doubling(inner, 2 * channels), 2 * channels),
            *stage(doubling(2 * channels, channels), channels),
            WideConvolution(channels, image_channels, 7, padding),
            nn.Tanh(),
        )
        initialise_normal(self, STD)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Convolution(Conv2d):
    """A convolution that keeps the size. `beyond` the edges, images are mirrored ("reflect") or 0 ("zeros")."""

    def __init__(self, before: int, after: int, kernel: int, beyond: Literal["reflect", "zeros"]):
        super().__init__(before, after, kernel)
        self.beyond = beyond

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.padded(x))

    def padded(self, x: Tensor) -> Tensor:
        pads = (self.kernel_size[0] // 2,) * 4
        if self.beyond == "zeros":
            return pad(x, pads)
        with torch.autocast(x.device.type, enabled=False):  # autocast would convert to float32 for it
            return pad(x, pads, mode="reflect")


class WideConvolution(Convolution):
    """`Convolution` for a large kernel and few input or output maps. It is several times faster, forwards or backwards.

    It is computed as two convolutions: one along the rows with the weights, and one along the columns that only shifts
    and adds. The second is on the side with fewer maps.
    """

    columns: Tensor

    def __init__(self, before: int, after: int, kernel: int, beyond: Literal["reflect", "zeros"]):
        super().__init__(before, after, kernel, beyond)
        self.gathers = before < after
        few = min(before, after)
        shifts = torch.eye(few * kernel).view(few * kernel, few, kernel, 1)
        self.register_buffer("columns", shifts if self.gathers else shifts.transpose(0, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x, width = self.padded(x), self.kernel_size[1]
        if self.gathers:
            return conv2d(conv2d(x, self.columns), self.weight.reshape(self.out_channels, -1, 1, width), self.bias)
        rows = self.weight.transpose(1, 2).reshape(-1, self.in_channels, 1, width)
        return conv2d(conv2d(x, rows), self.columns, self.bias)


class Residual(nn.Sequential):
    """The input plus the output of the layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Skip(nn.Sequential):
    """The input and the output of the layers, concatenated along the feature maps."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x)], dim=1)


class UNetGenerator(nn.Module):
    """Translates images (N, image_channels, H, W) to images of the same shape in (-1, 1) (Isola et al. 2017).

    Convolutions halve the size down to one pixel at the trained `resolution`, then double it again. Skip connections
    link equal sizes. H and W must be multiples of `resolution`. Raises ValueError unless `resolution` is a power of two
    from 16 on.
    """

    def __init__(self, *, resolution: int, image_channels: int, channels: int, norm: Norm, dropout: float):
        super().__init__()
        depth = int(math.log2(resolution))
        if depth < 4 or 2**depth != resolution:
            allowed = ", ".join(str(2**i) for i in range(4, 11))
            raise ValueError(
                f"resolution={resolution} is not allowed; it takes {allowed}: "
                f"set data.resolution={2 ** max(4, math.ceil(math.log2(resolution)))}"
            )
        self.multiple = self.least = resolution
        widths = [channels * min(2**i, 8) for i in range(depth)]
        inside: nn.Module | None = None
        for i in reversed(range(1, depth)):
            before, width, innermost = widths[i - 1], widths[i], inside is None
            # Normalising a single pixel would leave 0.
            inner_norm = [] if innermost else [normalisation(norm, width, running=True)]
            middle = [] if inside is None else [inside]
            deep = before == width and not innermost  # at the largest width
            inside = Skip(
                nn.LeakyReLU(0.2),
                nn.Conv2d(before, width, 4, 2, 1),
                *inner_norm,
                *middle,
                nn.ReLU(),
                nn.ConvTranspose2d(width if innermost else 2 * width, before, 4, 2, 1),
                normalisation(norm, before, running=True),
                *([nn.Dropout(dropout)] if dropout and deep else []),
            )
        assert inside is not None
        self.layers = nn.Sequential(
            nn.Conv2d(image_channels, channels, 4, 2, 1),
            inside,
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * channels, image_channels, 4, 2, 1),
            nn.Tanh(),
        )
        initialise_normal(self, STD)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class PatchDiscriminator(nn.Module):
    """Images (N, image_channels, H, W) to a map of logits (N, 1, H', W'), one per patch (Isola et al. 2017).

    `depth` is the number of halvings. With three, a patch has 70x70 pixels. The paper normalises after all convolutions
    except the first and the last; `norm_first` also normalises after the first. Raises ValueError if `depth` does not
    fit the `resolution`.
    """

    def __init__(
        self,
        *,
        resolution: int,
        image_channels: int,
        channels: int,
        depth: int,
        norm: Norm,
        norm_first: bool,
        dropout: float,
    ):
        super().__init__()
        self.group_size = 0 if norm == "batch" else 1  # 1: the logits of an image do not depend on the others
        if depth < 1:
            raise ValueError(f"depth={depth} must be at least 1")
        if resolution < (least := 3 * 2**depth):  # else the last feature maps are too small to score or to normalise
            raise ValueError(
                f"resolution={resolution} is too small for depth={depth}; set data.resolution={least} or more, or a "
                "smaller model.discriminator.depth"
            )
        widths = [image_channels, *(channels * min(2**i, 8) for i in range(depth + 1))]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(before, after, 4, stride=2 if i < depth else 1, padding=1))
            if i > 0 or norm_first:
                layers.append(normalisation(norm, after, running=False))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))
        initialise_normal(self, STD)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
