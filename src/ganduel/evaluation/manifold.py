"""Precision, recall, density and coverage, from the k-nearest-neighbour balls of real and generated features."""

from collections.abc import Iterator

import torch
from torch import Tensor

K_MANIFOLD = 3  # k of precision and recall, as in their paper (Kynkaanniemi et al. 2019)
K_DENSITY = 5  # k of density and coverage, as in their paper (Naeem et al. 2020)
AT_ONCE = 2**26  # most distances in memory at a time


def precision_and_recall(fake: Tensor, real: Tensor) -> dict[str, float]:
    """Precision and recall, each from 0 to 1 (Kynkaanniemi et al. 2019, equation 1).

    Precision is the share of generated images that lie in the neighbourhood of a real image. Recall is the share of
    real images that lie in the neighbourhood of a generated image. `fake` is (N, F) and `real` is (M, F), each with
    more than `K_MANIFOLD` images. All features are used, as in torch-fidelity. More images have smaller neighbourhoods,
    so N and M change the values of a perfect generator only a little.
    """
    around_reals, around_fakes = radii(real, K_MANIFOLD), radii(fake, K_MANIFOLD)
    precise = torch.zeros((), device=fake.device, dtype=torch.int64)
    recalled = torch.zeros(len(real), device=fake.device, dtype=torch.bool)
    for distances, radius in zip(between(fake, real), around_fakes.split(rows(real)), strict=True):
        precise = precise + (distances <= around_reals).any(1).sum()
        recalled = recalled | (distances <= radius[:, None]).any(0)
    return {"precision": float(precise) / len(fake), "recall": float(recalled.float().mean())}


def density_and_coverage(fake: Tensor, real: Tensor) -> dict[str, float]:
    """Density, from 0, and coverage, from 0 to 1 (Naeem et al. 2020, equations 4 and 5).

    Density is the mean number of real neighbourhoods that a generated image lies in, divided by k. Coverage is the
    share of real images whose neighbourhood holds a generated image. A neighbourhood does not include its edge. `fake`
    is (N, F) and `real` is (M, F), each with more than `K_DENSITY` images.

    As in the paper, N and M must be equal, so some images of the larger set are chosen. A perfect generator then has a
    coverage of about 1 - 1 / 2^k. With one generated image for five real images, it would have only 0.60.
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
    """Reduce all sets of features to the size of the smallest. The choice depends only on the sizes of the sets."""
    least = min(map(len, kinds))
    chosen = (torch.randperm(len(some), generator=torch.Generator().manual_seed(0))[:least] for some in kinds)
    return [some[numbers.sort().values.to(some.device)] for some, numbers in zip(kinds, chosen, strict=True)]


def radii(features: Tensor, k: int) -> Tensor:
    """The distance of each feature to its k-th nearest neighbour, (N,), or to its last one if there are fewer than k.

    `features` is (N, F).
    """
    k = min(k, len(features) - 1)
    nearest = [distances.topk(k + 1, largest=False).values for distances in between(features, features)]
    return torch.cat(nearest)[:, k]  # column 0 is the image itself


def between(features: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Yield the distances between features (N, F) and others (M, F) in blocks (n, M), where n is `rows(others)`."""
    return (torch.cdist(part, others) for part in features.split(rows(others)))


def rows(others: Tensor) -> int:
    """The number of features that are compared with all `others` at a time, within the limit `AT_ONCE`."""
    return max(1, AT_ONCE // len(others))
