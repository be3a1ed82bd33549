"""The transforms of ADA (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix B).

Each happens to an image with probability p times its `chance`, independently of the others, and is then of random
strength; where it does not happen, it is exactly the identity. In the order of the paper, those of geometry multiply
into one matrix an image, from a pixel of the result to where it comes from, and those of colour into another.
"""

import math
from collections.abc import Callable, Iterator
from functools import reduce
from itertools import count

import torch
from torch import Tensor

from ganduel import randomness
from ganduel.augment.resampling import filter_bands, move


class Draws:
    """What is random about some images, hashed from their seeds (N,), in the order in which it is asked for.

    Many numbers a hash: one name for each would cost more than the transforms.
    """

    def __init__(self, seed: Tensor, p: Tensor):
        self.seed, self.p = seed, p
        self._uniform, self._normal = self._all(randomness.uniform, "uniform"), self._all(randomness.normal, "normal")

    def _all(self, draw: Callable, stream: str) -> Iterator[Tensor]:
        for block in count():
            yield from draw(self.seed, (32,), f"ada {stream} {block}").unbind(1)

    def uniform(self) -> Tensor:
        """In (0, 1), one an image: (N,)."""
        return next(self._uniform)

    def normal(self) -> Tensor:
        return next(self._normal)

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """(N, *shape) normal numbers."""
        return randomness.normal(self.seed, shape, "ada noise")

    def happens(self, chance: float) -> Tensor:
        """Whether something with this chance, in units of p, happens to each image: (N,)."""
        return self.uniform() < self.p * chance

    def choice(self, options: int, chance: float) -> Tensor:
        """A number from 0 to `options - 1`; 0 where nothing happens."""
        return torch.where(self.happens(chance), (options * self.uniform()).floor().clamp(max=options - 1), 0)

    def factor(self, std: float, chance: float) -> Tensor:
        """A factor whose binary logarithm is normal; 1 where nothing happens."""
        return torch.where(self.happens(chance), (std * self.normal()).exp2(), 1)


Geometry = Callable[[Draws, int, int], Tensor]  # (draws, height, width) -> matrices (N, 3, 3)
Colour = Callable[[Draws], Tensor]  # draws -> matrices (N, 4, 4)


def geometry(images: Tensor, draws: Draws, transforms: list[Geometry]) -> Tensor:
    """All transforms in one resampling; images that none happens to stay as they are."""
    height, width = images.shape[2:]
    matrix = reduce(_product, [transform(draws, height, width) for transform in transforms])
    return _where_changed(matrix, move(images, matrix), images)


def x_flip(draws: Draws, height: int, width: int, chance: float) -> Tensor:
    return _scaling(1 - 2 * draws.choice(2, chance), 1)


def rotate_90(draws: Draws, height: int, width: int, chance: float) -> Tensor:
    return _rotation(draws.choice(4, chance) * (math.pi / 2))


def translate_pixels(draws: Draws, height: int, width: int, chance: float, most: float) -> Tensor:
    """By whole pixels, up to the share `most` of the size either way."""
    happens = draws.happens(chance)
    across, down = (
        torch.where(happens, (most * (2 * draws.uniform() - 1) * size).round(), 0) for size in (width, height)
    )
    return _translation(-across, -down)


def scale(draws: Draws, height: int, width: int, chance: float, std: float) -> Tensor:
    """By a factor of standard deviation `std`, in octaves."""
    factor = 1 / draws.factor(std, chance)
    return _scaling(factor, factor)


def rotate(draws: Draws, height: int, width: int, chance: float, most: float) -> Tensor:
    """Up to the share `most` of half a turn, either way. It comes before and after the stretching, and in one of the
    two places with its chance: 1 - (1 - x)^2 = p chance."""
    happens = draws.uniform() < 1 - (1 - (draws.p * chance).clamp(max=1)).sqrt()
    return _rotation(torch.where(happens, math.pi * most * (2 * draws.uniform() - 1), 0))


def stretch(draws: Draws, height: int, width: int, chance: float, std: float) -> Tensor:
    """Wider and flatter, or the reverse, by a factor of standard deviation `std`, in octaves."""
    factor = draws.factor(std, chance)
    return _scaling(1 / factor, factor)


def translate(draws: Draws, height: int, width: int, chance: float, std: float) -> Tensor:
    """By a normal share of the size, of standard deviation `std`."""
    happens = draws.happens(chance)
    across, down = (torch.where(happens, std * draws.normal() * size, 0) for size in (width, height))
    return _translation(-across, -down)


def colour(images: Tensor, draws: Draws, transforms: list[Colour]) -> Tensor:
    """All transforms in one matrix; images that none happens to stay as they are. A grey image is one of three equal
    channels, and takes the mean of what they become."""
    # Each acts on what those before it made.
    matrix = reduce(lambda before, after: _product(after, before), [transform(draws) for transform in transforms])
    linear, offset = matrix[:, :3, :3].to(images.dtype), matrix[:, :3, 3, None].to(images.dtype)
    if images.shape[1] == 1:
        linear, offset = linear.sum(2, keepdim=True).mean(1, keepdim=True), offset.mean(1, keepdim=True)
    changed = (linear @ images.flatten(2) + offset).view(images.shape)
    return _where_changed(matrix, changed, images)


def brightness(draws: Draws, chance: float, std: float) -> Tensor:
    """A normal number of standard deviation `std` is added."""
    more = torch.where(draws.happens(chance), std * draws.normal(), 0)
    return _matrix([1, 0, 0, more], [0, 1, 0, more], [0, 0, 1, more], [0, 0, 0, 1])


def contrast(draws: Draws, chance: float, std: float) -> Tensor:
    """Multiplied by a factor of standard deviation `std`, in octaves."""
    factor = draws.factor(std, chance)
    return _matrix([factor, 0, 0, 0], [0, factor, 0, 0], [0, 0, factor, 0], [0, 0, 0, 1])


def luma_flip(draws: Draws, chance: float) -> Tensor:
    """Light becomes dark in half of the cases; hue and saturation stay."""
    sign = 1 - 2 * draws.choice(2, chance)
    return _about_grey(sign, torch.ones_like(sign), torch.zeros_like(sign))


def hue(draws: Draws, chance: float, most: float) -> Tensor:
    """Colours turn about the axis of greys by up to the share `most` of half a turn, either way."""
    angle = torch.where(draws.happens(chance), math.pi * most * (2 * draws.uniform() - 1), 0)
    return _about_grey(torch.ones_like(angle), angle.cos(), angle.sin())


def saturation(draws: Draws, chance: float, std: float) -> Tensor:
    """The distance from grey is multiplied by a factor of standard deviation `std`, in octaves."""
    factor = draws.factor(std, chance)
    return _about_grey(torch.ones_like(factor), factor, torch.zeros_like(factor))


def octaves(images: Tensor, draws: Draws, chance: float, std: float) -> Tensor:
    """Each of four octaves may be amplified by a factor of standard deviation `std`, in octaves, and all four be scaled
    with it, so that the power of natural images is kept."""
    gains, changed = torch.ones(4, device=images.device), torch.zeros((), dtype=torch.bool, device=images.device)
    power = [10 / 13, 1 / 13, 1 / 13, 1 / 13]  # in each octave, the coarsest first, of a spectrum like 1 / f^2
    for i, share in enumerate(power):
        factor = draws.factor(std, chance)[:, None]
        chosen = torch.arange(4, device=images.device) == i
        gains = gains * torch.where(chosen, factor, 1) / (1 + share * (factor.square() - 1)).sqrt()
        changed = changed | (factor != 1)
    return torch.where(changed[..., None, None], filter_bands(images, gains), images)


def noise(images: Tensor, draws: Draws, chance: float, std: float) -> Tensor:
    """Normal noise is added, whose standard deviation is itself the size of a normal number times `std`."""
    strength = torch.where(draws.happens(chance), std * draws.normal().abs(), 0)[:, None, None, None]
    noisy = images + strength.to(images.dtype) * draws.noise(tuple(images.shape[1:])).to(images.dtype)
    return torch.where(strength > 0, noisy, images)


def cutout(images: Tensor, draws: Draws, chance: float, size: float) -> Tensor:
    """A rectangle of this share of each side, centred anywhere, becomes mid-grey."""
    half = torch.where(draws.happens(chance), size / 2, 0)[:, None]
    down, across = (
        ((torch.arange(side, device=images.device) + 0.5) / side - draws.uniform()[:, None]).abs() < half
        for side in images.shape[2:]
    )  # (N, H) and (N, W)
    return torch.where(down[:, None, :, None] & across[:, None, None, :], 0, images)


def _where_changed(matrix: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    """The images whose matrix is the identity as they were."""
    identity = torch.eye(matrix.shape[1], device=matrix.device)
    return torch.where((matrix != identity).any(2).any(1)[:, None, None, None], changed, images)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Of small matrices, in full float32 and the same for one as for many, unlike matmul."""
    return (left[..., None] * right[:, None]).sum(2)


def _matrix(*rows: list[Tensor | float]) -> Tensor:
    """Matrices (N, rows, columns) of entries (N,) or constants."""
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
    """Multiplies greys by `grey` and colours, as vectors from the axis of greys, by `cosine`, and turns them by what
    `sine` adds (Rodrigues' formula)."""
    mean, turn = (grey - cosine) / 3, sine / math.sqrt(3)
    left, right = mean - turn, mean + turn
    own = cosine + mean
    return _matrix([own, left, right, 0], [right, own, left, 0], [left, right, own, 0], [0, 0, 0, 1])
