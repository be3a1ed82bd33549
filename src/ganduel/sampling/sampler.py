"""Images from a trained model. A seed always gives the same image, whatever the batch and the device."""

import math
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganduel import checkpoint
from ganduel.augment.affine import mirrored
from ganduel.config.renamed import current
from ganduel.config.schema import MOST_SEEDS
from ganduel.data.image_set import normalise, to_bytes
from ganduel.game import Game, Generator, LatentGame
from ganduel.sampling.restore import restored
from ganduel.system.device import available, in_batches, out_of_memory
from ganduel.system.errors import UserError
from ganduel.system.files import parsing
from ganduel.system.terminal import say

# The settings in a checkpoint that commands need besides its networks: group, key, type.
KINDS = ("model", "name", str), ("data", "resolution", int), ("data", "channels", int)
TILES = 2048, 1024, 512, 256  # sides in pixels of the tiles of a large image, in the order to try them
OVERLAP = 64  # pixels that two neighbouring tiles share; there, one fades into the other
AT_ONCE = 5  # maps that are in memory at once, in an estimate; 4.2 were measured for ResNets, 2 for U-Nets


class Sampler:
    """The generators of a checkpoint, ready to draw or translate images. `ganduel.load` makes one.

    `path` is the file, `content` its content, `config` the configuration of the training run.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        ema: bool = True,
        device: str = "cpu",
        allow: Sequence[str] = (),
        truncation: float = 1.0,
        cutoff: int | None = None,
        noise: str | list[str] | None = None,
        label: int | None = None,
    ):
        """`path` is a checkpoint, a run folder (best.pt, else latest.pt), or a safetensors file of gan-export. `ema`
        takes the averaged generators, not the trained ones. `allow` names your own packages whose classes the
        configuration may use.

        `truncation` below 1 moves w towards its average, at 0 all the way, in the first `cutoff` layers or all. `noise`
        is "random", "constant" or "none", or a list with one per layer; None leaves it as trained. `label` is the class
        of all images; None draws a class per image.

        Raises UserError if the file cannot be loaded or a setting does not suit the model.
        """
        self.path = checkpoint.find(path)
        exported = self.path.suffix == checkpoint.EXPORTED
        self.content: dict[str, Any] = (checkpoint.load_exported if exported else checkpoint.load)(self.path)
        self.device = torch.device(device)
        with parsing(self.path, "a checkpoint whose networks fit its configuration"):
            self.config: dict[str, Any] = current(self.content["config"])
            for group, key, kind in KINDS:
                if type(self.config[group][key]) is not kind:
                    raise TypeError(f"{group}.{key} is no {kind.__name__}")
        self.ema, self.allow, self.truncation, self.cutoff, self.label = ema, allow, truncation, cutoff, label
        self.game = self._restored()  # with generators alone
        _check_finite(self.path, self.game.generators)
        if label is not None and not label < (classes := self.from_noise.classes):
            known = f"0 to {classes - 1}" if classes else "no classes: leave label=null"
            raise UserError(f"label={label} is not allowed; this model knows {known}")
        if noise is not None:
            self.generator.set_noise(noise)

    @cached_property
    def judged_game(self) -> Game:
        """The game with its discriminators, too. Raises UserError if the file has none."""
        if "game" not in self.content["state"]:
            raise UserError(f"{self.path}: has only generators, and mode=histograms needs D: give a checkpoint")
        return self._restored(judged=True)

    def _restored(self, judged: bool = False) -> Game:
        with parsing(self.path, "a checkpoint whose networks fit its configuration"):
            game = restored(self.config, self.content["state"], self.ema, judged, self.allow)
        return game.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)

    @property
    def from_noise(self) -> LatentGame:
        """The game, if it makes images from noise. Otherwise raises UserError."""
        if not isinstance(self.game, LatentGame):
            raise UserError(
                f"{self.path}: model={self.config['model']['name']} translates images and makes none from noise: "
                "mode=translate input=PHOTO_OR_FOLDER direction=A2B"
            )
        return self.game

    @property
    def generator(self) -> Generator:
        generator = self.from_noise.generators["G"]
        assert isinstance(generator, Generator)
        return generator

    @property
    def resolution(self) -> int:
        """Width and height in pixels of the training images."""
        return self.config["data"]["resolution"]

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return self.config["data"]["channels"]

    @property
    def images_seen(self) -> int:
        """Number of real images that D saw in training."""
        return self.content["images_seen"]

    @property
    def step(self) -> int:
        """Number of G's turns in training."""
        return self.content["step"]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({str(self.path)!r}: {self.config['model']['name']}, {self.resolution} pixels, "
            f"{self.images_seen:,} images seen)"
        )

    @torch.no_grad()
    def latents(self, seeds: Iterable[int]) -> Tensor:
        """The latents (N, latent) of seeds."""
        return self.from_noise.latent(self._tensor(seeds))

    @torch.no_grad()
    def map_latents(self, latents: Tensor, seeds: Iterable[int]) -> Tensor:
        """The mapped and truncated w of latents (N, latent). Without a mapping network, w is the latents themselves.

        Their classes come from the seeds, unless `label` is set. Raises UserError if the model cannot truncate.
        """
        seed = self._tensor(seeds)
        w = self.generator.map_latent(latents, seed, self.labels(seed))
        return w if self.truncation == 1 else self.generator.truncate(w, self.truncation, self.cutoff)

    def labels(self, seed: Tensor) -> Tensor | None:
        """The classes (N,) of seeds (N,), or `label` for all. None if the model has no classes."""
        return self.from_noise.label(seed) if self.label is None else torch.full_like(seed, self.label)

    @torch.no_grad()
    def paint(self, w: Tensor, seeds: Iterable[int], batch: int = 64) -> Tensor:
        """Images (N, C, H, W), float32 about in [-1, 1] on the CPU, from w (N, ...). Their noise comes from the
        seeds."""
        parts = zip(w.split(batch), self._tensor(seeds).split(batch), strict=True)
        return torch.cat([self.generator.synthesis(*part).float().cpu() for part in parts])

    def sample(self, seeds: int | Iterable[int], *, seed: int = 0, batch: int = 64) -> Tensor:
        """Images (N, C, H, W), float32 about in [-1, 1] on the CPU, made `batch` at once, or fewer if memory runs out.

        `seeds` are the seeds of the images, the same as in gan-sample, or the number of images. A number means the
        first seeds of gan-sample, 0, 1, ...; another `seed` gives other images. Raises UserError for no seeds.
        """
        seeds = list(range(seed << 32, (seed << 32) + seeds) if isinstance(seeds, int) else seeds)
        if not seeds:
            raise UserError("seeds is empty; give a number of images (1 or more) or a list of seeds")
        made: list[Tensor] = []

        def draw(numbers: range) -> None:
            some = seeds[numbers.start : numbers.stop]
            made.append(self.paint(self.map_latents(self.latents(some), some), some))

        in_batches(range(len(seeds)), batch, draw)
        return torch.cat(made)

    def bytes(self, seeds: int | Iterable[int], *, seed: int = 0, batch: int = 64) -> Tensor:
        """The images of `sample` as people see them, uint8 (N, C, H, W). Points are one plot, (1, 3, H, W)."""
        return to_bytes(self.game.pictures(self.sample(seeds, seed=seed, batch=batch)))

    def translate(self, images: Tensor, direction: str = "A2B", *, batch: int = 64) -> Tensor:
        """Translate images (N, C, H, W), uint8 or float in [-1, 1], to the other domain.

        The result has the same shape. It is uint8 for uint8, else float32. Where memory is short, images are
        translated in tiles: see `within_memory`. Raises UserError for images of another shape, and for a model that
        does not translate.
        """
        generator, whole = self.game.translator(self.game.generators, direction), images.dtype == torch.uint8
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise UserError(f"images of shape {tuple(images.shape)}: this model takes (N, {self.channels}, H, W)")
        made: list[Tensor] = []

        def translate(numbers: range) -> None:
            part = images[numbers.start : numbers.stop].to(self.device)
            one = within_memory(generator, normalise(part) if whole else part.float()).cpu()
            made.append(to_bytes(one) if whole else one)

        in_batches(range(len(images)), batch, translate)
        return torch.cat(made)

    def _tensor(self, seeds: Iterable[int]) -> Tensor:
        return torch.tensor(list(seeds), dtype=torch.int64, device=self.device)


def _check_finite(path: Path, networks: nn.Module) -> None:
    """Raise UserError if a weight is NaN or infinite, because all images would be black."""
    for name, tensor in networks.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinity: the run has diverged; take an earlier checkpoint")


@torch.no_grad()
def translated(generator: nn.Module, images: Tensor) -> Tensor:
    """Translate images (N, C, H, W) in [-1, 1] of any size.

    The generator takes sizes that are multiples of its attribute `multiple`, and at least `least`. Other images are
    padded by mirroring, and the result is cropped to the old size.
    """
    multiple, least = (getattr(generator, name, 1) for name in ("multiple", "least"))
    index = []
    for size in images.shape[2:]:
        extra = max(least - size, -size % multiple)
        index.append(mirrored(torch.arange(-(extra // 2), size + extra - extra // 2, device=images.device), size - 1))
    rows, columns = index
    height, width = images.shape[2:]
    top, left = (len(rows) - height) // 2, (len(columns) - width) // 2
    padded = images[:, :, rows[:, None], columns].contiguous(memory_format=torch.channels_last)
    return generator(padded)[:, :, top : top + height, left : left + width].float()


def within_memory(generator: nn.Module, images: Tensor) -> Tensor:
    """Translate images as `translated` does; a single image that memory cannot hold, in tiles.

    Generators normalise each tile by itself, so tiles may differ a little in tone. This takes the largest tiles that
    work. It does not try sizes that need more memory than is free, because the system might kill the process.
    """
    height, width = images.shape[2:]
    free = _free(images.device)
    needed = _bytes_per_pixel(generator, images[:1]) if free < math.inf and max(height, width) > TILES[-1] else 0.0
    for side in (max(height, width), *(side for side in TILES if side < max(height, width))):
        last = side == TILES[-1] or max(height, width) <= TILES[-1] or len(images) > 1
        if needed * len(images) * min(side, height) * min(side, width) > free:
            if len(images) > 1:
                raise MemoryError("these images are too many to be translated at once")
            if not last:
                continue
        try:
            made = in_tiles(generator, images, side)
        except (RuntimeError, MemoryError) as error:
            if last or not out_of_memory(error):
                raise
            continue
        if side < max(height, width):
            say(f"memory is short: an image of {width}x{height} pixels is translated in tiles of {side} pixels")
        return made
    raise AssertionError


def _free(device: torch.device) -> float:
    """Free memory in bytes on a CPU. It is infinite for other devices, which raise an exception when it is short."""
    try:
        return available(device) * 1e9 if device.type == "cpu" else math.inf
    except UserError:
        return math.inf


def _bytes_per_pixel(generator: nn.Module, images: Tensor) -> float:
    """An estimate of the memory that a generator needs for a pixel of its input: a few times its largest map."""
    largest = 0

    def look(module: nn.Module, inputs: tuple, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())

    hooks = [module.register_forward_hook(look) for module in generator.modules()]
    try:
        part = images[:, :, : TILES[-1], : TILES[-1]]
        translated(generator, part)
    finally:
        for hook in hooks:
            hook.remove()
    return AT_ONCE * largest / (part.shape[2] * part.shape[3])


def in_tiles(generator: nn.Module, images: Tensor, side: int) -> Tensor:
    """Translate images (N, C, H, W) in square tiles of `side` pixels, which overlap by `OVERLAP` pixels.

    Where tiles overlap, their weights rise and fall linearly and add up to 1. Images that are no larger are translated
    whole.
    """
    rows, columns = (spans(size, side) for size in images.shape[2:])
    if len(rows) == len(columns) == 1:
        return translated(generator, images)
    across = fades(columns, images)
    result = torch.zeros_like(images)
    for (top, bottom), down in zip(rows, fades(rows, images), strict=True):
        for (left, right), along in zip(columns, across, strict=True):
            made = translated(generator, images[:, :, top:bottom, left:right])
            result[:, :, top:bottom, left:right] += made * down[:, None] * along
    return result


def spans(length: int, side: int) -> list[tuple[int, int]]:
    """The (start, end) of the fewest pieces of `side` that cover `length` and overlap by at least `OVERLAP`."""
    if length <= side:
        return [(0, length)]
    more = math.ceil((length - side) / (side - OVERLAP))
    starts = [round(i * (length - side) / more) for i in range(more + 1)]
    return [(start, start + side) for start in starts]


def fades(pieces: Sequence[tuple[int, int]], like: Tensor) -> list[Tensor]:
    """The weight of each pixel of each piece, (length of the piece,). At every place, the weights add up to 1."""
    whole = torch.zeros(pieces[-1][1], dtype=like.dtype, device=like.device)
    weights = []
    for start, end in pieces:
        place = torch.arange(end - start, dtype=like.dtype, device=like.device) + 0.5
        weights.append(torch.minimum(place, end - start - place).clamp(max=OVERLAP))
        whole[start:end] += weights[-1]
    return [weight / whole[start:end] for (start, end), weight in zip(pieces, weights, strict=True)]


def parse_seeds(value: Any, key: str = "seeds") -> list[int]:
    """Turn "0-63", 7, "7", [1, 5, 9] or ["0-3", 9] into a list of seeds.

    Raises UserError for anything else, and for more than `MOST_SEEDS`.
    """
    found: list[range] = []
    for one in value if isinstance(value, list) else [value]:
        ends = re.fullmatch("([0-9]{1,19})(?:-([0-9]{1,19}))?", one) if isinstance(one, str) else None
        first = int(ends[1]) if ends else one
        last = int(ends[2] or ends[1]) if ends else one
        if type(first) is not int or not 0 <= first <= last < 2**63:
            found = []
            break
        found.append(range(first, last + 1))
    if not found:
        raise UserError(
            f"{key}={value} is not allowed; it takes a range like 0-63, a list like 1,5,9, or both like 0-3,9"
        )
    if (count := sum(seeds.stop - seeds.start for seeds in found)) > MOST_SEEDS:
        raise UserError(f"{key}={value} are {count:,} seeds; it takes {MOST_SEEDS:,} at most, so take them in turns")
    return [seed for seeds in found for seed in seeds]
