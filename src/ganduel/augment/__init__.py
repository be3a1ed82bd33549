"""Augmentation: a chain of differentiable transforms of all images that a discriminator sees."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch import Tensor, nn

from ganduel.stats import merged


class Transform(nn.Module):
    """`(images, seed) -> images`, with images (N, C, H, W) in [-1, 1] and one seed per image, (N,).

    All random numbers are hashed from the seeds. Penalties differentiate a transform twice with respect to the images.
    """

    adaptive = False  # whether it needs D's accuracy, which some losses do not have
    dials: Mapping[str, float] = MappingProxyType(
        {}
    )  # numbers that a schedule can move, with upper limits: buffers of one number each

    def adapt(self, real_accuracy: Tensor, images: int) -> None:
        """Adapt to D. The trainer calls this after every turn of D with the share of that turn's real `images` that D
        took for real, over all processes. It is a scalar on the device; do not wait for it."""

    def statistics(self) -> dict[str, Tensor]:
        """Named scalars for the logs."""
        return {}


class Chain(Transform):
    """Transforms, applied in order to real and fake images. An empty chain changes nothing. The configuration gives
    them their `names`."""

    def __init__(self, *transforms: nn.Module, names: Sequence[str] = ()):
        super().__init__()
        self.names = tuple(names)
        self.transforms = nn.ModuleList(transforms)

    @property
    def parts(self) -> list[Transform]:
        """The `Transform`s of the chain, without other modules."""
        return [transform for transform in self.transforms if isinstance(transform, Transform)]

    @property
    def adaptive(self) -> bool:  # type: ignore[override]
        return any(part.adaptive for part in self.parts)

    def adapt(self, real_accuracy: Tensor, images: int) -> None:
        for part in self.parts:
            part.adapt(real_accuracy, images)

    def statistics(self) -> dict[str, Tensor]:
        return merged(*(part.statistics() for part in self.parts))

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        for transform in self.transforms:
            images = transform(images, seed)
        return images
