"""Precision, recall, density and coverage: who lies within the k nearest neighbours of whom, in features."""

from collections.abc import Iterator

import torch
from torch import Tensor

K_MANIFOLD = 3  # of precision and recall, as in the paper
K_DENSITY = 5  # of density and coverage, as in theirs
AT_ONCE = 2**26  # distances in memory


def precision_and_recall(fake: Tensor, real: Tensor) -> dict[str, float]:
    """Of features (N, F) and (M, F), more than `K_MANIFOLD` of each: precision is the share of fakes that lie within a
    real image's neighbourhood, recall that of reals within a fake's (Kynkaanniemi et al. 2019, equation 1).

    They take all features, as torch-fidelity does: the neighbourhoods of more images are smaller, so the numbers N and
    M change what a perfect generator gets only little.
    """
    around_reals, around_fakes = radii(real, K_MANIFOLD), radii(fake, K_MANIFOLD)
    precise = torch.zeros((), device=fake.device, dtype=torch.int64)
    recalled = torch.zeros(len(real), device=fake.device, dtype=torch.bool)
    for distances, radius in zip(between(fake, real), around_fakes.split(rows(real)), strict=True):
        precise = precise + (distances <= around_reals).any(1).sum()
        recalled = recalled | (distances <= radius[:, None]).any(0)
    return {"precision": float(precise) / len(fake), "recall": float(recalled.float().mean())}


def density_and_coverage(fake: Tensor, real: Tensor) -> dict[str, float]:
    """Of features (N, F) and (M, F), more than `K_DENSITY` of each: density counts the real neighbourhoods that a fake
    lies in, as a share of k, and coverage the reals whose neighbourhood holds a fake (Naeem et al. 2020, equations 4
    and 5), both without the edge.

    As in the paper, both kinds are equally many: of the kind that has more, some are chosen. A perfect generator then
    has a coverage of about 1 - 1 / 2^k; one fake for five reals would have 0.60.
    """
    fake, real = equally_many(fake, real)
    radius = radii(real, K_DENSITY)
    inside = torch.zeros((), device=fake.device, dtype=torch.int64)
    covered = torch.zeros(len(real), device=fake.device, dtype=torch.bool)
    for distances in between(fake, real):
        near = distances < radius
        inside, covered = inside + near.sum(), covered | near.any(0)
    return {"density": float(inside) / (K_DENSITY * len(fake)), "coverage": float(covered.float().mean())}


def equally_many(*kinds: Tensor) -> list[Tensor]:
    """As many of each kind as there are of the fewest; which, depends on the numbers alone."""
    least = min(map(len, kinds))
    chosen = (torch.randperm(len(some), generator=torch.Generator().manual_seed(0))[:least] for some in kinds)
    return [some[numbers.sort().values.to(some.device)] for some, numbers in zip(kinds, chosen, strict=True)]


def radii(features: Tensor, k: int) -> Tensor:
    """The distances (N,) of features (N, F) to their k-th neighbour, or to the last one of few."""
    k = min(k, len(features) - 1)
    nearest = [distances.topk(k + 1, largest=False).values for distances in between(features, features)]
    return torch.cat(nearest)[:, k]  # the first is the image itself


def between(features: Tensor, others: Tensor) -> Iterator[Tensor]:
    """The distances of features (N, F) from others (M, F), in parts of `rows`: (n, M)."""
    return (torch.cdist(part, others) for part in features.split(rows(others)))


def rows(others: Tensor) -> int:
    """How many features are compared with all others at once."""
    return max(1, AT_ONCE // len(others))
