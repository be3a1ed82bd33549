"""What stands between the images and every discriminator: a chain of differentiable transforms."""

from torch import Tensor, nn

from ganduel.pace import Clock
from ganduel.stats import merged


class Transform(nn.Module):
    """`(images, seed) -> images`: images (N, C, H, W) in [-1, 1] and one seed an image, (N,), from which all that it
    draws is hashed.

    Penalties differentiate it twice with respect to the images.
    """

    adaptive = False  # whether it needs to be told how often D is right, which not every loss says
    capturable = False  # whether all that `at` changes lies in tensors, for a CUDA graph knows no other numbers

    def at(self, clock: Clock) -> None:
        """The trainer tells the time, before every iteration, to those that change with it."""

    def adapt(self, real_accuracy: Tensor, images: int) -> None:
        """The trainer tells, after every turn of D, the share of that turn's real `images` that it took for real, over
        all processes. A scalar on the device, which nobody waits for."""

    def statistics(self) -> dict[str, Tensor]:
        """Named scalars for the logs."""
        return {}


class Chain(Transform):
    """Transforms applied in order, to reals and fakes alike; empty, it changes nothing."""

    def __init__(self, *transforms: nn.Module):
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    @property
    def parts(self) -> list[Transform]:
        """Its transforms, but for modules that are only called."""
        return [transform for transform in self.transforms if isinstance(transform, Transform)]

    @property
    def adaptive(self) -> bool:  # type: ignore[override]
        return any(part.adaptive for part in self.parts)

    def at(self, clock: Clock) -> None:
        for part in self.parts:
            part.at(clock)

    def adapt(self, real_accuracy: Tensor, images: int) -> None:
        for part in self.parts:
            part.adapt(real_accuracy, images)

    def statistics(self) -> dict[str, Tensor]:
        return merged(*(part.statistics() for part in self.parts))

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        for transform in self.transforms:
            images = transform(images, seed)
        return images
