"""Games: which networks exist, how discriminators meet images, and which other losses generators have.

In a `Duel`, one discriminator meets one batch of real and one batch of fake images. Losses and penalties see only
duels. The trainer sees only games. Images are (N, C, H, W) in [-1, 1].
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganduel import plane, randomness
from ganduel.augment import Chain
from ganduel.data.image_set import ImageSet, Pair, normalise
from ganduel.system.errors import UserError

SHOWN = 64  # images of the pictures made during training
WITH_MAPPING = (
    "a model with a mapping network: stylegan2_ada, projected_stylegan2, or dcgan with model.generator.mapping"
)

Batch = dict[str, Tensor]
"""Tensors with one row per image: the real images of each domain, by the domain's name; "seed", int64 (N,), from which
all randomness of an image is hashed; "label", int64 (N,), if the images have classes; and the fakes of the turn before,
if players share fakes (see `sharing`)."""


class Generator(nn.Module, ABC):
    """Makes images (N, C, H, W) in [-1, 1] from noise (N, latent), in two halves: `map_latent` and `synthesis`.

    All other randomness of an image is hashed from its `seed` (N,). Without seeds nothing else is random. `label` (N,)
    holds the classes, if the generator has `classes`.
    """

    latent: int  # numbers of noise
    classes: int = 0
    has_mapping: bool = False  # whether a network maps the latent to w

    def map_latent(self, latent: Tensor, seed: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """The mapped latent w, (N, width) or (N, layers, width). Without a mapping network, w is the latent itself."""
        return latent

    @abstractmethod
    def synthesis(self, w: Tensor, seed: Tensor | None = None) -> Tensor:
        """The images (N, C, H, W) of mapped latents w."""

    def forward(self, latent: Tensor, seed: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        return self.synthesis(self.map_latent(latent, seed, label), seed)

    def update_w_average(self, latent: Tensor, label: Tensor | None) -> None:
        """Update the moving average of w with a batch of latents. The trainer calls this once per iteration."""

    def truncate(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """Move w towards its average, in the first `cutoff` layers or in all. At `psi` = 0 it is the average.

        Raises UserError if the model has no average of w.
        """
        raise UserError(
            f"truncation={psi} needs a model that keeps an average of w: stylegan2_ada, projected_stylegan2"
        )

    def set_noise(self, noise: str | list[str]) -> None:
        """The kind of noise in all layers, or in each: random, constant or none."""
        raise UserError(f"noise={noise} needs a model with noise in its layers: stylegan2_ada, projected_stylegan2")


class AugmentedDiscriminator:
    """A discriminator with its augmentation, as losses and penalties see it. Takes float32, returns float32 logits.

    It judges packs of `pack` images of the same kind, so N images give N / `pack` logits; see `packed`.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        augment: nn.Module,
        seed: Tensor,
        label: Tensor | None = None,
        pack: int = 1,
    ):
        self.network, self.augment, self.seed, self.pack = network, augment, seed, pack
        self.condition = () if label is None else (label,)

    def __call__(self, images: Tensor) -> Tensor:
        return self._logits(self._augmented(images))

    def both(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of N real and N fake images, in one pass if that gives the same logits.

        One pass is possible if the network has an attribute `group_size` = k: it compares only images i, i + N / k,
        i + 2 N / k, ... with each other. k = 1 means that it judges every image separately.
        """
        group = getattr(self.network, "group_size", 0)
        real, fake = self._augmented(real), self._augmented(fake)
        if not group or len(real) % group:
            return self._logits(real), self._logits(fake)
        images = _joined([real, fake], group)
        condition = [_joined([label, label], group) for label in self.condition]
        logits = self.network(images, *condition).float().unflatten(0, (group, -1))
        of_real, of_fake = logits.chunk(2, dim=1)
        return of_real.flatten(0, 1), of_fake.flatten(0, 1)

    def _augmented(self, images: Tensor) -> Tensor:
        # Every call has its own random stream, so real and fake images are augmented independently. All micro batches
        # make the same calls in the same order.
        self.seed = self.seed + randomness.GOLDEN
        return self.packed(self.augment(images.float(), self.seed))

    def _logits(self, packed: Tensor) -> Tensor:
        return self.network(packed, *self.condition).float()

    def packed(self, images: Tensor) -> Tensor:
        """Images (N, C, ...) as packs (N / `pack`, `pack` C, ...): the network sees a pack as one image with more
        channels (Lin et al. 2018, "PacGAN").

        A pack has images i, i + N / `pack`, i + 2 N / `pack`, ... So it lies within one micro batch, as groups do.
        """
        if self.pack == 1:
            return images
        return images.unflatten(0, (self.pack, -1)).transpose(0, 1).flatten(1, 2)


def _joined(batches: list[Tensor], group: int) -> Tensor:
    """Join batches so that no group has images of two batches."""
    return torch.cat([batch.unflatten(0, (group, -1)) for batch in batches], dim=1).flatten(0, 1)


@dataclass
class Duel:
    """One discriminator, one batch of real images, and the source of as many fake images."""

    name: str  # part of the names of its losses; "" if the game has only one duel
    discriminator: AugmentedDiscriminator
    real: Tensor
    source: Tensor  # what the generator makes fakes from: latents, or the other domain's images
    generator: Callable[[Tensor, Tensor, Tensor | None], Tensor]  # source, seed, label -> fake
    seed: Tensor  # (N,), one per image: all randomness of the duel is hashed from it
    label: Tensor | None = None
    given: Tensor | None = None  # fakes that another turn has made
    pack: int = 1  # images that the discriminator judges together

    @cached_property
    def fake(self) -> Tensor:
        """The fake images (N, C, H, W), always float32, because penalties differentiate with respect to them.

        They are made on first use, so a penalty on real images does not run the generator.
        """
        return self.generator(self.source, self.seed, self.label).float() if self.given is None else self.given

    @cached_property
    def logits(self) -> tuple[Tensor, Tensor]:
        """D's logits of the real images and of the fakes, whose graph does not reach G. They are computed on first use,
        so penalties of every turn share them with D's loss."""
        return self.discriminator.both(self.real, self.fake.detach())


class Comparison(NamedTuple):
    """Generated images, and the real images that metrics compare them with."""

    name: str  # part of the names of its values; "" if the game has only one comparison
    make: Callable[[range, int], Tensor]  # image numbers and a seed -> images (N, C, H, W) in [-1, 1]
    most: int | None  # the number of different images that can be made; None: no limit
    images: ImageSet
    real: Tensor  # indices of the real images in `images`
    # Numbers of walks through w, a seed and a share of the way -> the images at the start and at that share. None
    # without a mapping network.
    walk: Callable[[range, int, float], tuple[Tensor, Tensor]] | None = None


class Game(nn.Module, ABC):
    """The networks and their rules. Subclasses turn a batch into duels.

    The name of a discriminator is "D" and the name of its duel. Each discriminator has its own copy of the
    augmentation, because some augmentations adapt to it. Discriminators judge packs of `pack` images. Raises ValueError
    for a pack of less than one image.
    """

    domains: tuple[str, ...]  # the names of the real images in a batch
    auxiliary_names: tuple[str, ...] = ()  # the names of the losses that `auxiliary_losses` returns
    sampling = ""  # arguments that gan-sample needs beside the checkpoint

    def __init__(
        self, generators: dict[str, nn.Module], discriminators: dict[str, nn.Module], augment: Chain, pack: int = 1
    ):
        super().__init__()
        if pack < 1:
            raise ValueError(f"pack={pack} must be at least 1")
        self.pack = pack
        self.generators = nn.ModuleDict(generators)
        self.discriminators = nn.ModuleDict(discriminators)
        self.augment = nn.ModuleDict({name: copy.deepcopy(augment) for name in discriminators})

    @property
    def duel_names(self) -> list[str]:
        """The names of the duels, in the order of the discriminators."""
        return [name.removeprefix("D") for name in self.discriminators]

    @property
    def chains(self) -> dict[str, Chain]:
        """The augmentations, by the names of the duels."""
        return {name: chain for name in self.duel_names if isinstance(chain := self.augment[f"D{name}"], Chain)}

    @abstractmethod
    def duels(self, batch: Batch, generators: nn.ModuleDict) -> list[Duel]:
        """The duels of a batch. `generators` make the fakes: the game's own generators, or their averages."""

    def auxiliary_losses(self, batch: Batch, duels: list[Duel]) -> dict[str, Tensor]:
        """Further losses of the generators, such as a cycle loss: weighted scalars by the names in
        `auxiliary_names`."""
        return {}

    def from_pool(self, fakes: Batch, seed: Tensor) -> Batch:
        """The fakes that D meets instead of the shared `fakes` of G's turn. Both are by the names of their duels."""
        return fakes

    def after_iteration(self, seed: Tensor) -> None:
        """Update averages that no optimizer trains, once per iteration. All processes get the same seeds (N,)."""

    # The uses of generators. They are usually the averaged ones.

    def pictures(self, samples: Tensor, kind: str = "fake") -> Tensor:
        """What people see of samples (N, C, H, W) of a `kind`, fake or real: pictures (M, 1 or 3, H, W) in [-1, 1].

        Images are shown as they are.
        """
        return samples

    def translator(self, generators: nn.ModuleDict, direction: str) -> nn.Module:
        """The generator of a direction, "A2B" or "B2A". Raises UserError if the game does not translate images."""
        raise UserError("mode=translate: this model makes images from seeds and translates none: set mode=grid")

    @abstractmethod
    def show(self, generators: nn.ModuleDict, images: ImageSet | Pair, batch: int) -> tuple[Tensor, int | None]:
        """Images (N, C, H, W) in [-1, 1] for the pictures of a run, and the number of images in a row of the picture.

        They always use the same seeds or real images, and are made `batch` at once. None means a square picture. The
        discriminators must be in evaluation mode, because a plot of points shows their output.
        """

    @abstractmethod
    def comparisons(self, generators: nn.ModuleDict, images: ImageSet | Pair) -> list[Comparison]:
        """The images that metrics compare."""


class LatentGame(Game):
    """One generator makes images from standard normal latents (N, `generator.latent`); one discriminator judges them.

    If the generator has classes, both networks get them. A fake has the class of the real image that it meets. Raises
    ValueError for packs of labelled images, because the images of a pack have different classes.
    """

    domains = ("real",)

    def __init__(self, generator: Generator, discriminator: nn.Module, augment: Chain, pack: int = 1):
        super().__init__({"G": generator}, {"D": discriminator}, augment, pack)
        self.latents, self.classes = generator.latent, generator.classes
        if pack > 1 and self.classes:
            raise ValueError(
                f"pack={pack} with classes={self.classes}: the images of a pack have different classes; set "
                "model.pack=1 or model.classes=0"
            )

    def duels(self, batch: Batch, generators: nn.ModuleDict) -> list[Duel]:
        seed, label = batch["seed"], batch["label"] if self.classes else None
        return [
            Duel(
                name="",
                discriminator=AugmentedDiscriminator(
                    self.discriminators["D"], self.augment["D"], seed, label, self.pack
                ),
                real=batch["real"],
                source=self.latent(seed),
                generator=generators["G"],
                seed=seed,
                label=label,
                pack=self.pack,
            )
        ]

    def after_iteration(self, seed: Tensor) -> None:
        generator = self.generators["G"]
        assert isinstance(generator, Generator)
        if type(generator).update_w_average is not Generator.update_w_average:
            generator.update_w_average(self.latent(seed), self.label(seed))

    def sample(self, generators: nn.ModuleDict, seed: Tensor, classes: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of the seeds (N,), of classes that `label` draws from `classes` (M,)."""
        with torch.no_grad():
            return generators["G"](self.latent(seed), seed, self.label(seed, classes)).float()

    def show(self, generators: nn.ModuleDict, images: ImageSet | Pair, batch: int) -> tuple[Tensor, None]:
        """The images of the first seeds of gan-sample."""
        seeds = torch.arange(SHOWN, device=images.device)
        return torch.cat([self.sample(generators, part) for part in seeds.split(batch)]), None

    def comparisons(self, generators: nn.ModuleDict, images: ImageSet | Pair) -> list[Comparison]:
        """Generated images and all training images. Classes have the same frequencies in both."""
        assert isinstance(images, ImageSet)
        generator = generators["G"]
        assert isinstance(generator, Generator)
        classes = None
        if self.classes and images.labels is not None:
            classes = images.labels[images.train.long()].long().to(images.device)

        def seeds(numbers: range, seed: int, stream: str) -> Tensor:
            return randomness.seeds(seed, stream, first=numbers.start, count=len(numbers), device=images.device)

        def make(numbers: range, seed: int) -> Tensor:
            return self.sample(generators, seeds(numbers, seed, "metric"), classes)

        @torch.no_grad()
        def walk(numbers: range, seed: int, share: float) -> tuple[Tensor, Tensor]:
            begin, end = seeds(numbers, seed, "metric"), seeds(numbers, seed, "far end of a walk")
            label = self.label(begin, classes)
            start, goal = (generator.map_latent(self.latent(some), some, label) for some in (begin, end))
            near, far = (generator.synthesis(w, begin).float() for w in (start, torch.lerp(start, goal, share)))
            return near, far

        return [Comparison("", make, None, images, images.train, walk if generator.has_mapping else None)]

    def latent(self, seed: Tensor) -> Tensor:
        """Standard normal latents (N, latents) of seeds (N,)."""
        return randomness.normal(seed, (self.latents,), "latent")

    def label(self, seed: Tensor, among: Tensor | None = None) -> Tensor | None:
        """A class (N,) for each seed (N,); None if the generator has no classes.

        The classes are drawn from `among` (M,), the labels of some images, so they have the same frequencies. Without
        `among`, all classes are equally likely.
        """
        if not self.classes:
            return None
        among = torch.arange(self.classes, device=seed.device) if among is None else among
        return among[(randomness.uniform(seed, (), "label") * len(among)).long()]


class PointGame(LatentGame):
    """A `LatentGame` of points in the plane. A point is an image (2, 1, 1) of one pixel, whose channels are x and y.

    People see points as one plot of the square from -span to span. The plots of a run also show real points and, as
    the ground, the output of D.
    """

    def __init__(self, generator: Generator, discriminator: nn.Module, augment: Chain, span: float, pack: int = 1):
        super().__init__(generator, discriminator, augment, pack)
        self.span = span

    def pictures(self, samples: Tensor, kind: str = "fake") -> Tensor:
        return to_float(plane.scatter({kind: samples}, self.span))

    def show(self, generators: nn.ModuleDict, images: ImageSet | Pair, batch: int) -> tuple[Tensor, None]:
        """One plot: the first training points, the points of gan-sample's first seeds, and D's output."""
        assert isinstance(images, ImageSet)
        seeds = torch.arange(plane.PLOTTED, device=images.device)
        fake = torch.cat([self.sample(generators, part) for part in seeds.split(batch)])
        real = images.gather(images.train[: plane.PLOTTED])
        return to_float(plane.scatter({"real": real, "fake": fake}, self.span, self.field)), None

    @torch.no_grad()
    def field(self, points: Tensor) -> Tensor:
        """D's output (N,) for points (N, 2, 1, 1), without augmentation. A pack holds the same point several times."""
        device = next(self.discriminators.parameters()).device
        return self.discriminators["D"](points.to(device).repeat(1, self.pack, 1, 1)).float()


def to_float(picture: Tensor) -> Tensor:
    """A plot (3, H, W), uint8, as a batch (1, 3, H, W) in [-1, 1]."""
    return normalise(picture[None])
