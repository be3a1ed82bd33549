"""How many modes of the data a generator covers, how well, and how evenly.

The protocols are those of VEEGAN (Srivastava et al. 2017) and PacGAN (Lin et al. 2018). Points belong to the mode whose
centre is nearest. Images belong to the class that a classifier of digits sees; a stack of three digits belongs to the
class of three digits.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ganduel.data.image_set import ImageSet
from ganduel.data.points import PointSet
from ganduel.data.stacks import StackSet
from ganduel.evaluation.digit_classifier import digit_weights, load_classifier
from ganduel.game import Comparison
from ganduel.system import distributed
from ganduel.system.device import in_batches
from ganduel.system.errors import UserError

NEAR = 3.0  # standard deviations: a point within these of a centre is of high quality
CLASSES = 10  # of the digit classifier


def check_modes(comparisons: list[Comparison], which: list[str]) -> None:
    """Raise UserError if images of unknown modes are to be measured by "modes", or points by any other metric."""
    for comparison in comparisons:
        images = comparison.images
        if isinstance(images, PointSet) and (others := [name for name in which if name != "modes"]):
            raise UserError(f"metric.which: {', '.join(others)} measures images, and these are points; it takes modes")
        if "modes" not in which or isinstance(images, PointSet):
            continue
        single = _single(images)
        if single.shape[0] != 1 or single.modes != CLASSES:
            raise UserError(
                "metric.which: modes needs points (data=ring, data=grid), grey images of ten classes (data=mnist), or "
                "their stacks (data=stacked_mnist); leave it out"
            )


def measure_modes(
    images: ImageSet, make: Callable[[range], Tensor], count: int, cache: Path, batch: int
) -> tuple[dict[str, float], str]:
    """The values "modes", "high_quality" (points alone) and "reverse_kl" of `count` generated samples, and a note on
    the classifier that told the modes apart.

    `make` gives the samples of some numbers, (N, C, H, W) in [-1, 1], or points. The classifier of digits is trained on
    the labels of `images` and saved in the folder `cache`. With several processes, each handles a block of the samples;
    the first gets the values, and the others {}.
    """
    if isinstance(images, PointSet):
        points, about = _collected(make, count, batch), images.about["plane"]
        return {} if points is None else of_points(points.flatten(1), torch.tensor(about["centres"]), about["std"]), ""
    single = _single(images)
    path, accuracy = distributed.in_turn(lambda: digit_weights(single, cache, "modes"))
    classifier = load_classifier(path).to(images.device)
    labels = _collected(lambda numbers: digits(classifier, make(numbers)), count, batch)
    note = f"modes by a classifier right on {accuracy:.2%} of held-out digits"
    return {} if labels is None else of_classes(labels, images.modes), note


def _single(images: ImageSet) -> ImageSet:
    """The set of single digits that a set of stacks is made of; any other set is its own."""
    return images.single if isinstance(images, StackSet) else images


def _collected(find: Callable[[range], Tensor], count: int, batch: int) -> Tensor | None:
    """The results of `find` for `count` numbers, (count, ...) on the CPU, in the first process; None in the others."""
    found: list[Tensor] = []
    with torch.no_grad():
        in_batches(distributed.block(count), batch, lambda numbers: found.append(find(numbers).cpu()))
    found = distributed.collect(found)
    return torch.cat(found) if distributed.is_main() else None


def digits(classifier: torch.nn.Module, made: Tensor) -> Tensor:
    """The class (N,) of images (N, 1 or 3, H, W) in [-1, 1]. Of a stack, red is the hundreds digit, blue the ones."""
    pixels = ((made.float() + 1) * 127.5).round().clamp(0, 255)
    each = classifier(pixels.flatten(0, 1)[:, None])[1].argmax(1).unflatten(0, made.shape[:2])
    weights = [CLASSES**k for k in reversed(range(made.shape[1]))]
    return (each * torch.tensor(weights, device=each.device)).sum(1)


def of_points(points: Tensor, centres: Tensor, std: float) -> dict[str, float]:
    """The values of points (N, 2), with modes around `centres` (K, 2).

    A point is of high quality within `NEAR` standard deviations of the nearest centre. A mode is covered by one point
    of high quality. For the reverse KL divergence, every point counts for its nearest mode.
    """
    nearest = torch.cdist(points.double(), centres.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1)
    good = nearest.values <= NEAR * std
    return {
        "modes": float(len(nearest.indices[good].unique())),
        "high_quality": float(good.double().mean()),
        "reverse_kl": reverse_kl(torch.bincount(nearest.indices, minlength=len(centres))),
    }


def of_classes(labels: Tensor, classes: int) -> dict[str, float]:
    """The values of samples with the labels (N,), each below `classes`. One sample covers a mode."""
    counts = torch.bincount(labels, minlength=classes)
    return {"modes": float((counts > 0).sum()), "reverse_kl": reverse_kl(counts)}


def reverse_kl(counts: Tensor) -> float:
    """The Kullback-Leibler divergence, in nats, of the modes of samples from the uniform distribution.

    `counts` (K,) are the numbers of samples of each mode. The value is 0 if all are equal, and log K if one mode has
    all samples. Even real samples have about (K - 1) / 2N, because N samples are not spread exactly evenly.
    """
    shares = counts.double() / counts.sum()
    return math.log(len(counts)) + float(torch.special.xlogy(shares, shares).sum())
