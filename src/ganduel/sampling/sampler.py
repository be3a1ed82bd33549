"""Pictures from a trained game: one seed is one image, whatever the batch and the device."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganduel import build, checkpoint
from ganduel.augment.affine import mirrored
from ganduel.data.loading import normalise, to_bytes
from ganduel.game import Game, Generator, NoiseGame
from ganduel.system.errors import UserError


class Sampler:
    """The generators of a checkpoint, ready to draw or to translate. `ganduel.load` makes one.

    `config` is the configuration that they were trained with, `content` all that the file says, `path` where it lies.
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
        """`path` is a checkpoint, a run folder (its best, else its latest checkpoint) or what gan-export made as
        safetensors; `ema` takes the averaged generators rather than those that were trained; `allow` admits packages of
        your own in its configuration.

        Styles are drawn towards their average, all the way at a `truncation` of 0, in the first `cutoff` layers or all.
        `noise` is random, constant or none, for all layers or a list with one for each; None leaves it as trained.
        `label` is the class of all images; None draws one for each.
        """
        self.path = checkpoint.find(path)
        exported = self.path.suffix == checkpoint.EXPORTED
        self.content: dict[str, Any] = (checkpoint.load_exported if exported else checkpoint.load)(self.path)
        self.config: dict[str, Any] = self.content["config"]
        self.device = torch.device(device)
        try:
            self.game: Game = build.game(self.config["model"], self.config["augment"], allow)
            if not exported:
                self.game.load_state_dict(self.content["state"]["game"])
            if exported or ema:
                self.game.generators.load_state_dict(self.content["state"]["ema"])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"{self.path}: its networks do not fit its configuration ({error})") from error
        self.game.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self.allow, self.truncation, self.cutoff, self.label = allow, truncation, cutoff, label
        if label is not None and not label < (classes := self.from_noise.classes):
            known = f"0 to {classes - 1}" if classes else "no classes: leave label=null"
            raise UserError(f"label={label} is not allowed; this model knows {known}")
        if noise is not None:
            self.generator.set_noise(noise)

    @property
    def from_noise(self) -> NoiseGame:
        """The game. Raises UserError where it does not make images from noise."""
        if not isinstance(self.game, NoiseGame):
            raise UserError(
                f"{self.path}: model={self.config['model']['name']} does not make images from noise but from others: "
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
        """Pixels a side of the images that it was trained on."""
        return self.config["data"]["resolution"]

    @property
    def channels(self) -> int:
        """1 where images are grey, else 3."""
        return self.config["data"]["channels"]

    @property
    def images_seen(self) -> int:
        """Real images that D had met."""
        return self.content["images_seen"]

    @property
    def step(self) -> int:
        """Turns of G that it was trained for."""
        return self.content["step"]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({str(self.path)!r}: {self.config['model']['name']}, {self.resolution} pixels, "
            f"{self.images_seen:,} images seen)"
        )

    @torch.no_grad()
    def latents(self, seeds: Iterable[int]) -> Tensor:
        """Noise (N, latent)."""
        return self.from_noise.latent(self._tensor(seeds))

    @torch.no_grad()
    def styles(self, latents: Tensor, seeds: Iterable[int]) -> Tensor:
        """What images of latents are made from, truncated. Seeds give their classes, unless a label is set."""
        seed = self._tensor(seeds)
        styles = self.generator.style(latents, seed, self.labels(seed))
        return styles if self.truncation == 1 else self.generator.truncate(styles, self.truncation, self.cutoff)

    def labels(self, seed: Tensor) -> Tensor | None:
        """The classes (N,) of seeds (N,), or the one that is set; None where the model knows none."""
        return self.from_noise.label(seed) if self.label is None else torch.full_like(seed, self.label)

    @torch.no_grad()
    def paint(self, styles: Tensor, seeds: Iterable[int], batch: int = 64) -> Tensor:
        """Images (N, C, H, W), float32 in [-1, 1] on the CPU, of styles (N, ...). Seeds give their noise."""
        parts = zip(styles.split(batch), self._tensor(seeds).split(batch), strict=True)
        return torch.cat([self.generator.synthesis(*part).float().cpu() for part in parts])

    def sample(self, seeds: int | Iterable[int], *, seed: int = 0, batch: int = 64) -> Tensor:
        """Images (N, C, H, W), float32 in [-1, 1] on the CPU, made `batch` at once.

        One seed is one image, the one that gan-sample draws of it. A number instead of seeds asks for so many images:
        those that gan-sample draws first or, with another `seed`, others.
        """
        seeds = list(range(seed << 32, (seed << 32) + seeds) if isinstance(seeds, int) else seeds)
        parts = [seeds[i : i + batch] for i in range(0, len(seeds), batch)]
        if not parts:
            raise UserError("seeds: there are none; take a number of images from 1 on, or some seeds")
        return torch.cat([self.paint(self.styles(self.latents(part), part), part) for part in parts])

    def bytes(self, seeds: int | Iterable[int], *, seed: int = 0, batch: int = 64) -> Tensor:
        """The same images as uint8."""
        return to_bytes(self.sample(seeds, seed=seed, batch=batch))

    def translate(self, images: Tensor, direction: str = "A2B", *, batch: int = 64) -> Tensor:
        """Images (N, C, H, W) of one domain as ones of the other, of their own size and type: uint8, or float in
        [-1, 1]."""
        generator, whole = self.game.translator(self.game.generators, direction), images.dtype == torch.uint8
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise UserError(f"images of shape {tuple(images.shape)}: this model takes (N, {self.channels}, H, W)")
        parts = [part.to(self.device) for part in images.split(batch)]
        made = [translated(generator, normalise(part) if whole else part.float()).cpu() for part in parts]
        return to_bytes(torch.cat(made)) if whole else torch.cat(made)

    def _tensor(self, seeds: Iterable[int]) -> Tensor:
        return torch.tensor(list(seeds), dtype=torch.int64, device=self.device)


@torch.no_grad()
def translated(generator: nn.Module, images: Tensor) -> Tensor:
    """Images (N, C, H, W) in [-1, 1] of any size to others of the same, by a generator that takes multiples of its
    `multiple` from `least` on: their edges are mirrored as far as need be, and cut off again."""
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


def parse_seeds(value: Any, key: str = "seeds") -> list[int]:
    """ "0-63", 7 or [1, 5, 9] to a list. Raises UserError."""
    try:
        if isinstance(value, list):
            seeds = [int(v) for v in value]
        elif "-" in str(value):
            first, last = str(value).split("-")
            seeds = list(range(int(first), int(last) + 1))
        else:
            seeds = [int(value)]
    except (ValueError, TypeError):
        seeds = []
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**63:
        raise UserError(f"{key}={value} is not allowed; it takes a range like 0-63 or a list like [1,5,9]")
    return seeds
