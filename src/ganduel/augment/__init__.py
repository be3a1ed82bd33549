"""What stands between the images and every discriminator: a chain of differentiable transforms."""

from torch import Tensor, nn


class Chain(nn.Module):
    """Transforms applied in order, to reals and fakes alike; empty, it changes nothing.

    A transform is a module `(images, seed) -> images` with images (N, C, H, W) and one seed an image (N,), from which
    all it draws is hashed.
    """

    def __init__(self, *transforms: nn.Module):
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, images: Tensor, seed: Tensor) -> Tensor:
        for transform in self.transforms:
            images = transform(images, seed)
        return images
