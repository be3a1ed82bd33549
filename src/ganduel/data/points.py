"""Points in the plane as images of one pixel."""

import torch
from torch import Tensor

from ganduel import plane
from ganduel.data.image_set import ImageSet


class PointSet(ImageSet):
    """Points in the plane, as images (N, 2, 1, 1) of one pixel, not bounded by [-1, 1]. Previews are plots."""

    @property
    def modes(self) -> int:
        """The number of centres."""
        return len(self.about["plane"]["centres"])

    def preview(self, count: int) -> Tensor:
        """One plot (1, 3, H, W), uint8, of the first training points. `count` is that of images, so it is ignored."""
        points = self.gather(self.train[: plane.PLOTTED])
        span = 1.25 * float(torch.tensor(self.about["plane"]["centres"]).abs().max())
        return plane.scatter({"real": points}, span)[None]
