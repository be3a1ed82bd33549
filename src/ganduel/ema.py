"""Exponential moving average of the generators. Samples and metrics use it."""

import copy

import torch
from torch import Tensor, nn


def decay(images: float, half_life: float) -> float:
    """The weight that an average's old value keeps after this many images. A half-life of 0 keeps nothing."""
    return 0.5 ** (images / half_life) if half_life else 0.0


class EMA:
    """Averaged copies of all generators, running statistics included.

    The weight of an old state halves every `half_life` images. `ramp` limits the half-life to `ramp` times the images
    seen so far, so that early averages forget the initialisation (Karras et al. 2020, "Training Generative Adversarial
    Networks with Limited Data"); None sets no limit.
    """

    def __init__(self, generators: nn.ModuleDict, half_life: float, ramp: float | None):
        self.generators = copy.deepcopy(generators).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp
        pairs = list(zip(_state(self.generators), _state(generators), strict=True))
        self.floats = [(average, now) for average, now in pairs if average.is_floating_point()]
        self.counters = [(average, now) for average, now in pairs if not average.is_floating_point()]

    def decay(self, images: int, images_seen: int) -> float:
        """The weight of the old average in an update after `images` more images, at `images_seen` in total."""
        half_life = self.half_life if self.ramp is None else min(self.half_life, self.ramp * images_seen)
        return decay(images, half_life)

    @torch.no_grad()
    def update(self, images: int, images_seen: int) -> None:
        weight = 1 - self.decay(images, images_seen)
        torch._foreach_lerp_([a for a, _ in self.floats], [n for _, n in self.floats], weight)
        if self.counters:
            torch._foreach_copy_([a for a, _ in self.counters], [n for _, n in self.counters])


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
