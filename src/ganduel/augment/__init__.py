"""What stands between the images and every discriminator: a chain of differentiable transforms."""

from torch import Tensor, nn

from ganduel.pace import Clock


class Transform(nn.Module):
    """`(images, seed) -> images`: images (N, C, H, W) in [-1, 1] and one seed an image, (N,), from which all that it
    draws is hashed.

    Penalties differentiate it twice with respect to the images.
    """

    def start(self, clock: Clock) -> None:
        """Told once, before the first iteration, to those with durations among their settings."""

    def at(self, images_seen: int) -> None:
        """The trainer tells the time, before every iteration, to those that change with it."""


class Chain(Transform):
    """Transforms applied in order, to reals and fakes alike; empty, it changes nothing."""

    def __init__(self, *transforms: nn.Module):
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def start(self, clock: Clock) -> None:
        """Told once, before the first iteration, to those with durations among their settings."""

    def at(self, images_seen: int) -> None:
        for transform in self.transforms:
            if isinstance(transform, Transform):
                transform.at(images_seen)

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        for transform in self.transforms:
            images = transform(images, seed)
        return images
