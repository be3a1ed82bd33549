"""Pictures from a trained game: one seed is one image, whatever the batch and the device."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganduel import build, checkpoint
from ganduel.data.loading import to_bytes
from ganduel.errors import UserError
from ganduel.game import Game


class Sampler:
    """The generators of a checkpoint, ready to draw. `ganduel.load` makes one."""

    def __init__(self, path: str | Path, *, ema: bool = True, device: str = "cpu", allow: Sequence[str] = ()):
        """`path` is a checkpoint or a run folder; `allow` admits packages of your own in its configuration."""
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

    def sample(self, seeds: Iterable[int], batch: int = 64) -> Tensor:
        """Images (N, C, H, W), float32 in [-1, 1] on the CPU."""
        return torch.cat(list(self._batches(seeds, batch)))

    def bytes(self, seeds: Iterable[int], batch: int = 64) -> Tensor:
        """Images (N, C, H, W), uint8."""
        return to_bytes(self.sample(seeds, batch))

    def _batches(self, seeds: Iterable[int], batch: int) -> Iterator[Tensor]:
        for part in torch.tensor(list(seeds), dtype=torch.int64).split(batch):
            yield self.game.sample(self.game.generators, part.to(self.device)).cpu()
