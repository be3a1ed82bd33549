"""The transforms of ADA (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix B).

Each transform happens to an image with probability p * `chance`, independently of the others, with a random strength.
If it does not happen, it is exactly the identity. The order is that of the paper. The geometric transforms of an image
multiply to one matrix, from an output pixel to its source. Its colour transforms multiply to another matrix.

Strengths `std` "in octaves" are standard deviations of log2 of a factor.
"""

import math
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import count

import torch
from torch import Tensor

from ganduel import randomness
from ganduel.augment.resampling import filter_bands, warp


class Draws:
    """Random numbers for images, hashed from their seeds (N,), in the order of the calls.

    One hash gives many numbers. A stream per number would cost more than the transforms.
    """

    def __init__(self, seed: Tensor, p: Tensor):
        self.seed, self.p = seed, p
        self._uniform, self._normal = self._all(randomness.uniform, "uniform"), self._all(randomness.normal, "normal")

    def _all(self, draw: Callable, stream: str) -> Iterator[Tensor]:
        for block in count():
            yield from draw(self.seed, (32,), f"ada {stream} {block}").unbind(1)

    def uniform(self) -> Tensor:
        """Uniform numbers in (0, 1), one per image: (N,)."""
        return next(self._uniform)

    def normal(self) -> Tensor:
        """Standard normal numbers, one per image: (N,)."""
        return next(self._normal)

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers (N, *shape)."""
        return randomness.normal(self.seed, shape, "ada noise")

    def happens(self, chance: float) -> Tensor:
        """Whether an event of probability p * `chance` happens to each image: bool (N,)."""
        return self.uniform() < self.p * chance

    def choice(self, options: int, chance: float) -> Tensor:
        """A uniform integer from 0 to `options - 1` with probability p * `chance`, otherwise 0: (N,)."""
        return torch.where(self.happens(chance), (options * self.uniform()).floor().clamp(max=options - 1), 0)

    def factor(self, std: float, chance: float) -> Tensor:
        """A factor exp2(`std` * normal) with probability p * `chance`, otherwise 1: (N,)."""
        return torch.where(self.happens(chance), (std * self.normal()).exp2(), 1)


Geometry = Callable[[Draws, int, int], Tensor]  # (draws, height, width) -> matrices (N, 3, 3)
Colour = Callable[[Draws], Tensor]  # draws -> matrices (N, 4, 4)


def geometry(images: Tensor, draws: Draws, transforms: list[Geometry]) -> Tensor:
    """Images (N, C, H, W) under all transforms, in one resampling. Images without a transform stay unchanged."""
    height, width = images.shape[2:]
    matrix = reduce(_product, [transform(draws, height, width) for transform in transforms])
    return _where_changed(matrix, warp(images, matrix), images)


def x_flip(draws: Draws, height: int, width: int, chance: float) -> Tensor:
    """Mirror half of the chosen images left to right."""
    return _scaling(1 - 2 * draws.choice(2, chance), 1)


def rotate_90(draws: Draws, height: int, width: int, chance: float) -> Tensor:
    """Rotate by 0, 90, 180 or 270 degrees."""
    return _rotation(draws.choice(4, chance) * (math.pi / 2))


def translate_pixels(draws: Draws, height: int, width: int, chance: float, most: float) -> Tensor:
    """Move by whole pixels, up to the share `most` of the size in either direction."""
    happens = draws.happens(chance)
    across, down = (
        torch.where(happens, (most * (2 * draws.uniform() - 1) * size).round(), 0) for size in (width, height)
    )
    return _translation(-across, -down)


def scale(draws: Draws, height: int, width: int, chance: float, std: float) -> Tensor:
    """Scale by a factor of standard deviation `std`, in octaves."""
    factor = 1 / draws.factor(std, chance)
    return _scaling(factor, factor)


def rotate(draws: Draws, height: int, width: int, chance: float, most: float) -> Tensor:
    """Rotate by up to the share `most` of 180 degrees in either direction.

    It is used before and after `stretch`, each time with the probability x that gives 1 - (1 - x)^2 = p * `chance`. So
    at least one of the two rotations happens with probability p * `chance`.
    """
    happens = draws.uniform() < 1 - (1 - (draws.p * chance).clamp(max=1)).sqrt()
    return _rotation(torch.where(happens, math.pi * most * (2 * draws.uniform() - 1), 0))


def stretch(draws: Draws, height: int, width: int, chance: float, std: float) -> Tensor:
    """Multiply the width by a factor of standard deviation `std`, in octaves, and divide the height by it."""
    factor = draws.factor(std, chance)
    return _scaling(1 / factor, factor)


def translate(draws: Draws, height: int, width: int, chance: float, std: float) -> Tensor:
    """Move by a normal share of the size with standard deviation `std`."""
    happens = draws.happens(chance)
    across, down = (torch.where(happens, std * draws.normal() * size, 0) for size in (width, height))
    return _translation(-across, -down)


def colour(images: Tensor, draws: Draws, transforms: list[Colour]) -> Tensor:
    """Images (N, C, H, W) under all transforms, in one matrix. Images without a transform stay unchanged.

    A grey image counts as three equal channels. Its result is the mean of the three.
    """
    # Each transform acts on the result of the earlier ones.
    matrix = reduce(lambda before, after: _product(after, before), [transform(draws) for transform in transforms])
    linear, offset = matrix[:, :3, :3].to(images.dtype), matrix[:, :3, 3, None].to(images.dtype)
    if images.shape[1] == 1:
        linear, offset = linear.sum(2, keepdim=True).mean(1, keepdim=True), offset.mean(1, keepdim=True)
    changed = (linear @ images.flatten(2) + offset).view(images.shape)
    return _where_changed(matrix, changed, images)


def brightness(draws: Draws, chance: float, std: float) -> Tensor:
    """Add a normal number of standard deviation `std`."""
    more = torch.where(draws.happens(chance), std * draws.normal(), 0)
    return _matrix([1, 0, 0, more], [0, 1, 0, more], [0, 0, 1, more], [0, 0, 0, 1])


def contrast(draws: Draws, chance: float, std: float) -> Tensor:
    """Multiply by a factor of standard deviation `std`, in octaves."""
    factor = draws.factor(std, chance)
    return _matrix([factor, 0, 0, 0], [0, factor, 0, 0], [0, 0, factor, 0], [0, 0, 0, 1])


def luma_flip(draws: Draws, chance: float) -> Tensor:
    """Invert the brightness of half of the chosen images. Hue and saturation stay."""
    sign = 1 - 2 * draws.choice(2, chance)
    return _about_grey(sign, torch.ones_like(sign), torch.zeros_like(sign))


def hue(draws: Draws, chance: float, most: float) -> Tensor:
    """Rotate colours about the grey axis by up to the share `most` of 180 degrees in either direction."""
    angle = torch.where(draws.happens(chance), math.pi * most * (2 * draws.uniform() - 1), 0)
    return _about_grey(torch.ones_like(angle), angle.cos(), angle.sin())


def saturation(draws: Draws, chance: float, std: float) -> Tensor:
    """Multiply the distance from grey by a factor of standard deviation `std`, in octaves."""
    factor = draws.factor(std, chance)
    return _about_grey(torch.ones_like(factor), factor, torch.zeros_like(factor))


def octaves(images: Tensor, draws: Draws, chance: float, std: float) -> Tensor:
    """Amplify each of four frequency bands by a factor of standard deviation `std`, in octaves.

    After each change all four bands are rescaled, so that a natural image keeps its power.
    """
    gains, changed = torch.ones(4, device=images.device), torch.zeros((), dtype=torch.bool, device=images.device)
    power = [10 / 13, 1 / 13, 1 / 13, 1 / 13]  # of a spectrum 1 / f^2 in each band, the coarsest first
    for i, share in enumerate(power):
        factor = draws.factor(std, chance)[:, None]
        chosen = torch.arange(4, device=images.device) == i
        gains = gains * torch.where(chosen, factor, 1) / (1 + share * (factor.square() - 1)).sqrt()
        changed = changed | (factor != 1)
    return torch.where(changed[..., None, None], filter_bands(images, gains), images)


def noise(images: Tensor, draws: Draws, chance: float, std: float) -> Tensor:
    """Add normal noise. Its standard deviation is |normal number| * `std`, one per image."""
    strength = torch.where(draws.happens(chance), std * draws.normal().abs(), 0)[:, None, None, None]
    noisy = images + strength.to(images.dtype) * draws.noise(tuple(images.shape[1:])).to(images.dtype)
    return torch.where(strength > 0, noisy, images)


def cutout(images: Tensor, draws: Draws, chance: float, size: float) -> Tensor:
    """Cover a rectangle with mid grey. Its sides are the share `size` of the image's; its centre is uniform."""
    half = torch.where(draws.happens(chance), size / 2, 0)[:, None]
    down, across = (
        ((torch.arange(side, device=images.device) + 0.5) / side - draws.uniform()[:, None]).abs() < half
        for side in images.shape[2:]
    )  # (N, H) and (N, W)
    return torch.where(down[:, None, :, None] & across[:, None, None, :], 0, images)


def _where_changed(matrix: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    """`images` where the matrix is the identity, `changed` elsewhere."""
    identity = torch.eye(matrix.shape[1], device=matrix.device)
    return torch.where((matrix != identity).any(2).any(1)[:, None, None, None], changed, images)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Product of small matrices (N, i, j) and (N, j, k). Unlike matmul it uses full float32, with the same result for
    any batch size."""
    return (left[..., None] * right[:, None]).sum(2)


def _matrix(*rows: list[Tensor | float]) -> Tensor:
    """Matrices (N, rows, columns) from entries of shape (N,) or constants."""
    entries = [entry for row in rows for entry in row]
    like = next(entry for entry in entries if isinstance(entry, Tensor))
    constants = {number: torch.full_like(like, number) for number in {e for e in entries if not isinstance(e, Tensor)}}
    filled = [entry if isinstance(entry, Tensor) else constants[entry] for entry in entries]
    return torch.stack(filled, dim=-1).view(len(like), len(rows), -1)


def _scaling(x: Tensor, y: Tensor | float) -> Tensor:
    return _matrix([x, 0, 0], [0, y, 0], [0, 0, 1])


def _rotation(angle: Tensor) -> Tensor:
    cosine, sine = angle.cos(), angle.sin()
    return _matrix([cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1])


def _translation(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([1, 0, x], [0, 1, y], [0, 0, 1])


def _about_grey(grey: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Colour matrices (N, 4, 4) that multiply the grey part of a colour by `grey`.

    The part perpendicular to the grey axis, v, becomes `cosine` * v plus `sine` * (v turned by 90 degrees), as in
    Rodrigues' formula.
    """
    mean, turn = (grey - cosine) / 3, sine / math.sqrt(3)
    left, right = mean - turn, mean + turn
    own = cosine + mean
    return _matrix([own, left, right, 0], [right, own, left, 0], [left, right, own, 0], [0, 0, 0, 1])
