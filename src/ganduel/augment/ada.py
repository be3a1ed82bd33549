"""Adaptive discriminator augmentation (Karras et al. 2020, "Training Generative Adversarial Networks with Limited
Data")."""

from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from ganduel.augment import Transform, pipeline
from ganduel.augment.pipeline import Draws


class ADA(Transform):
    """Augments real and fake images with probability `p`, which rises while D memorises its real images.

    D overfits if r = E[sign D(real)] is high. Every `interval` turns of D, p rises if r was above `target`, and falls
    if it was below. Its speed takes it from 0 to 1 in `speed` thousands of real images. p stays in [0, 1]: above 1 it
    would hardly do more, and would take long to come back. If `target` is None, p is fixed.

    `pipe` is one of the names in `pipes`. Each pipe is a list of groups of transforms: `blit`, `geom` and so on; see
    `pipeline`. Raises ValueError for numbers out of range and unknown names.
    """

    dials = MappingProxyType({"p": 1.0})
    p: Tensor
    r: Tensor
    tally: Tensor

    def __init__(
        self,
        p: float,
        target: float | None,
        interval: int,
        speed: float,
        pipe: str,
        pipes: dict[str, list[str]],
        blit: dict[str, partial],
        geom: dict[str, partial],
        color: dict[str, partial],
        filter: dict[str, partial],
        noise: dict[str, partial],
        cutout: dict[str, partial],
    ):
        super().__init__()
        groups = {"blit": blit, "geom": geom, "color": color, "filter": filter, "noise": noise, "cutout": cutout}
        if not 0 <= p <= 1:
            raise ValueError(f"p={p} must be from 0 to 1")
        if target is not None and not -1 <= target <= 1:
            raise ValueError(f"target={target} must be from -1 to 1, or null for a fixed p")
        if interval < 1 or speed <= 0:
            raise ValueError(f"interval={interval} must be at least 1, and speed={speed} kimg above 0")
        if pipe not in pipes or not groups.keys() >= set(pipes[pipe]):
            raise ValueError(f"pipe={pipe} must be one of {', '.join(pipes)}, and made of {', '.join(groups)}")
        for group, transforms in groups.items():
            for name, transform in transforms.items():
                for key, value in transform.keywords.items():
                    if value < 0:
                        raise ValueError(f"{group}.{name}.{key}={value} must be at least 0")
        self.target, self.interval, self.speed = target, interval, speed
        self.adaptive = target is not None
        chosen = {group: list(transforms.values()) for group, transforms in groups.items() if group in pipes[pipe]}
        self.geometry: list[pipeline.Geometry] = [*chosen.get("blit", []), *chosen.get("geom", [])]
        self.colour: list[pipeline.Colour] = [*chosen.get("color", [])]
        self.others = [transform for group in ("filter", "noise", "cutout") for transform in chosen.get(group, [])]
        self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("r", torch.tensor(0.0))  # r at the last change of p
        self.register_buffer("tally", torch.zeros(3))  # since that change: sum of signs, real images, turns

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        return self.augment(images, Draws(seed, self.p))

    def augment(self, images: Tensor, draws: Draws) -> Tensor:
        """Augment in full precision, because rounding errors would look like a difference between real and fake."""
        with torch.autocast(images.device.type, enabled=False):
            if self.geometry:
                images = pipeline.geometry(images, draws, self.geometry)
            if self.colour:
                images = pipeline.colour(images, draws, self.colour)
            for transform in self.others:
                images = transform(images, draws)
        return images

    @torch.no_grad()
    def adapt(self, real_accuracy: Tensor, images: int) -> None:
        if self.target is None:
            return
        self.tally[0] += (2 * real_accuracy - 1) * images
        self.tally[1] += images
        self.tally[2] += 1
        signs, seen, turns = self.tally
        due, r = turns >= self.interval, signs / seen
        p = self.p + (r - self.target).sign() * seen / (1000 * self.speed)
        self.p.copy_(torch.where(due, p.clamp(0, 1), self.p))
        self.r.copy_(torch.where(due, r, self.r))
        self.tally *= ~due

    def statistics(self) -> dict[str, Tensor]:
        return {"ada/p": self.p, "ada/r": self.r} if self.adaptive else {"ada/p": self.p}
