"""Precision, recall, density and coverage: who lies within the k nearest neighbours of whom, in features."""

import torch
from torch import Tensor

K_MANIFOLD = 3  # of precision and recall, as in the paper
K_DENSITY = 5  # of density and coverage, as in theirs
AT_ONCE = 2**26  # distances in memory


def neighbourhoods(fake: Tensor, real: Tensor) -> dict[str, float]:
    """All four of generated and real features (N, F) and (M, F), N and M larger than `K_DENSITY`, from one pass over
    their distances.

    Precision is the share of fakes within a real image's neighbourhood, recall that of reals within a fake's
    (Kynkaanniemi et al. 2019, equation 1). Density counts the real neighbourhoods that a fake lies in, as a share of k,
    and coverage the reals whose neighbourhood holds a fake (Naeem et al. 2020, equations 4 and 5), both without the
    edge.
    """
    (manifold, dense), (around_fakes, _) = radii(real), radii(fake)
    precise = dense_in = torch.zeros((), device=fake.device, dtype=torch.int64)
    recalled = covered = torch.zeros(len(real), device=fake.device, dtype=torch.bool)
    rows = max(1, AT_ONCE // len(real))
    for part, radius in zip(fake.split(rows), around_fakes.split(rows), strict=True):
        distances = torch.cdist(part, real)
        precise = precise + (distances <= manifold).any(1).sum()
        recalled = recalled | (distances <= radius[:, None]).any(0)
        dense_in = dense_in + (distances < dense).sum()
        covered = covered | (distances < dense).any(0)
    return {
        "precision": float(precise) / len(fake),
        "recall": float(recalled.float().mean()),
        "density": float(dense_in) / (K_DENSITY * len(fake)),
        "coverage": float(covered.float().mean()),
    }


def radii(features: Tensor) -> tuple[Tensor, Tensor]:
    """The distances (N,) of features (N, F) to their third and their fifth neighbour, or to the last one of few."""
    rows = max(1, AT_ONCE // len(features))
    deepest = min(K_DENSITY, len(features) - 1)
    nearest = torch.cat(
        [torch.cdist(part, features).topk(deepest + 1, largest=False).values for part in features.split(rows)]
    )  # itself first
    return nearest[:, min(K_MANIFOLD, deepest)], nearest[:, deepest]
