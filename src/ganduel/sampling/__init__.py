"""Pictures from a trained game: one seed is one image, whatever the batch and the device."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel import build, checkpoint
from ganduel.data.loading import to_bytes
from ganduel.errors import UserError
from ganduel.game import Game, Generator, NoiseGame


class Sampler:
    """The generators of a checkpoint, ready to draw. `ganduel.load` makes one."""

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
        """`path` is a checkpoint or a run folder; `allow` admits packages of your own in its configuration.

        Styles are drawn towards their average, all the way at a `truncation` of 0, in the first `cutoff` layers or all.
        `noise` is random, constant or none, for all layers or a list with one for each; None leaves it as trained.
        `label` is the class of all images; None draws one for each.
        """
        self.path = checkpoint.find(path)
        self.content: dict[str, Any] = checkpoint.load(self.path)
        self.config: dict[str, Any] = self.content["config"]
        self.device = torch.device(device)
        try:
            self.game: Game = build.game(self.config["model"], self.config["augment"], allow)
            self.game.load_state_dict(self.content["state"]["game"])
            if ema:
                self.game.generators.load_state_dict(self.content["state"]["ema"])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"{self.path}: its networks do not fit its configuration ({error})") from error
        self.game.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self.truncation, self.cutoff, self.label = truncation, cutoff, label
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

    @torch.no_grad()
    def latents(self, seeds: Iterable[int]) -> Tensor:
        """Noise (N, latent)."""
        return self.from_noise.latent(self._tensor(seeds))

    @torch.no_grad()
    def styles(self, latents: Tensor, seeds: Iterable[int]) -> Tensor:
        """What images of latents are made from, truncated. Seeds give their classes, unless a label is set."""
        seed = self._tensor(seeds)
        label = self.from_noise.label(seed) if self.label is None else torch.full_like(seed, self.label)
        styles = self.generator.style(latents, seed, label)
        return styles if self.truncation == 1 else self.generator.truncate(styles, self.truncation, self.cutoff)

    @torch.no_grad()
    def paint(self, styles: Tensor, seeds: Iterable[int], batch: int = 64) -> Tensor:
        """Images (N, C, H, W), float32 in [-1, 1] on the CPU, of styles (N, ...). Seeds give their noise."""
        parts = zip(styles.split(batch), self._tensor(seeds).split(batch), strict=True)
        return torch.cat([self.generator.synthesis(*part).float().cpu() for part in parts])

    def sample(self, seeds: Iterable[int], batch: int = 64) -> Tensor:
        """Images (N, C, H, W), float32 in [-1, 1] on the CPU."""
        seeds = list(seeds)
        parts = [seeds[i : i + batch] for i in range(0, len(seeds), batch)]
        return torch.cat([self.paint(self.styles(self.latents(part), part), part) for part in parts])

    def bytes(self, seeds: Iterable[int], batch: int = 64) -> Tensor:
        """Images (N, C, H, W), uint8."""
        return to_bytes(self.sample(seeds, batch))

    def _tensor(self, seeds: Iterable[int]) -> Tensor:
        return torch.tensor(list(seeds), dtype=torch.int64, device=self.device)


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
