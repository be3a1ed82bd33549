"""FID and related metrics from one pass over the features of torch-fidelity's extractors.

torch-fidelity computes KID and IS. The Frechet distance, precision and recall are our own code: FID needs only sums in
float64, and precision and recall share one pass over the distances. Tests compare them with torch-fidelity's values.

A cached file of real statistics also records its images, its extractor and their versions. If the record does not
match, the statistics are computed again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganduel import checkpoint
from ganduel.evaluation.extractors import Features
from ganduel.evaluation.manifold import K_DENSITY, K_MANIFOLD, density_and_coverage, precision_and_recall
from ganduel.system import distributed
from ganduel.system.device import in_batches
from ganduel.system.errors import UserError
from ganduel.system.terminal import say

FIDELITY_VERSION = version("torch_fidelity")
NEED_FEATURES = {"kid", "prc", "dc", "successive"}  # metrics that need every image's features; FID needs only moments
SPLITS = 10  # parts of the images whose inception scores isc averages
# fewest images of each kind; otherwise 2
LEAST = {"prc": K_MANIFOLD + 1, "dc": K_DENSITY + 1, "successive": 4, "isc": SPLITS}


@dataclass(frozen=True)
class Images:
    """Images that are made or read on demand and not kept."""

    make: Callable[[range], Tensor]  # from indices to uint8 (N, C, H, W), on any device
    count: int


class Moments(NamedTuple):
    """Mean (F,) and covariance (F, F) of features, float64."""

    mean: Tensor
    covariance: Tensor


class Summary(NamedTuple):
    """Statistics of images: the moments and, on request, all features (N, F) and logits (N, K)."""

    moments: Moments
    features: Tensor | None
    logits: Tensor | None


class Reference(NamedTuple):
    """Statistics of real images: the mean (F,) and the root of the covariance (F, F), float64, and the features."""

    mean: Tensor
    root: Tensor
    features: Tensor | None


@contextmanager
def exact() -> Iterator[None]:
    """Switch TF32 off, because metrics compare small differences. Training may use TF32."""
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [setting.allow_tf32 for setting in settings]
    for setting in settings:
        setting.allow_tf32 = False
    try:
        yield
    finally:
        for setting, was in zip(settings, before, strict=True):
            setting.allow_tf32 = was


@exact()
def measure(
    fake: Images,
    real: Images,
    features: Features,
    which: list[str],
    *,
    reference: str | None,
    cache: Path | None,
    device: torch.device,
    batch: int,
) -> dict[str, float]:
    """Compute the metrics in `which` and return their values by name.

        fid         fid
        kid         kid, kid_std
        isc         isc, isc_std: the inception score
        prc         precision, recall
        dc          density, coverage: of equally many generated and real images
        successive  successive_fid: between the first and the second half of the generated images; it falls when the
                    generated images become alike

    `reference` identifies the real images, and their statistics are cached in the folder `cache`. With several
    processes, each handles a block of the images; the first computes the values, and the others return {}. Raises
    UserError if there are too few images or if isc is wanted without a classifier.
    """
    least = max(LEAST.get(name, 2) for name in which)
    if min(fake.count, real.count) < least:
        raise UserError(
            f"metric: {fake.count} generated and {real.count} real images are too few for {', '.join(which)}; {least} "
            "or more of each"
        )
    if "isc" in which and not features.classifies:
        raise UserError(f"metric.which: isc needs a classifier, which {features.kind} is not; leave it out")
    keep = bool(NEED_FEATURES & {*which})
    known = reference_of(real, features, keep, reference, cache, device, batch)
    made = summarise(fake, features, device, batch, keep, logits="isc" in which)
    values: dict[str, float] = {}
    if made is None or known is None:
        return values
    if "fid" in which:
        values["fid"] = frechet(made.moments, known)
    if "isc" in which:
        from torch_fidelity.metric_isc import isc_features_to_metric  # torch-fidelity takes seconds to import

        assert made.logits is not None
        score = isc_features_to_metric(made.logits, splits=SPLITS)
        values |= {"isc": score["inception_score_mean"], "isc_std": score["inception_score_std"]}
    if not keep:
        return values
    assert made.features is not None and known.features is not None
    if "kid" in which:
        from torch_fidelity.metric_kid import kid_features_to_metric

        size = min(1000, fake.count, real.count)
        distance = kid_features_to_metric(made.features, known.features, kid_subset_size=size, verbose=False)
        values["kid"] = distance["kernel_inception_distance_mean"]
        values["kid_std"] = distance["kernel_inception_distance_std"]
    for name, compare in {"prc": precision_and_recall, "dc": density_and_coverage}.items():
        if name in which:
            values |= compare(made.features.to(device), known.features.to(device))
    if "successive" in which:
        first, second = made.features.chunk(2)
        known = reference_from(Summary(moments_of(second), None, None))
        values["successive_fid"] = frechet(moments_of(first), known)
    return values


def reference_of(
    real: Images,
    features: Features,
    keep: bool,
    identity: str | None,
    cache: Path | None,
    device: torch.device,
    batch: int,
) -> Reference | None:
    """The statistics of the real images, from the cache or from a pass over the images.

    Only the first process reads and writes the cache; the other processes get None. The file name has shortened hashes.
    The file itself holds a full record of the images, their number, the extractor, its weights and the version of
    torch-fidelity. The file is used only if this record matches completely.
    """
    key = f"{identity} {real.count} {features.label} {features.digest} torch-fidelity {FIDELITY_VERSION}"
    paths: dict[str, Path] = {}
    if identity is not None and cache is not None and distributed.is_main():
        name = f"real-{identity}-{real.count}-{features.identity}"
        paths = {part: cache / f"{name}-{part}.pt" for part in ("moments", *(["features"] if keep else []))}
    found = {part: cached(path, key, part) for part, path in paths.items()}
    if distributed.first_says(bool(found) and all(found.values())):
        known = {what: tensor for content in found.values() for what, tensor in content.items()}
        return Reference(known["mean"], known["root"], known.get("features")) if known else None
    summary = summarise(real, features, device, batch, keep)
    if summary is None:
        return None
    new = reference_from(summary)
    contents: dict[str, dict[str, Any]] = {
        "moments": {"mean": new.mean, "root": new.root},
        "features": {"features": new.features},
    }
    for part, path in paths.items():
        try:
            checkpoint.save(path, {"key": key, **contents[part]})
        except UserError as error:
            say(f"warning: the statistics of the real images cannot be cached ({str(error).partition(';')[0]})")
    return new


def cached(path: Path, key: str, part: str) -> dict[str, Tensor]:
    """The tensors in a cache file; {} if it is missing or damaged, or if its record is not `key`."""
    needs = ("key", "mean", "root") if part == "moments" else ("key", "features")
    try:
        content = checkpoint.load(path, needs)
    except UserError:  # missing, incomplete, or not a file of ours
        return {}
    return {name: content[name] for name in needs[1:]} if content["key"] == key else {}


def summarise(
    images: Images, features: Features, device: torch.device, batch: int, keep: bool, logits: bool = False
) -> Summary | None:
    """Summarise images in one pass: `batch` images at a time go through the extractor, without leaving the device.

    With several processes, each handles a block of the images. The first gets the summary of all; the others get None.
    """
    extractor = features.extractor.to(device)
    sums, kept, scores = Sums(), [], []

    def look(numbers: range) -> None:
        found = extractor(images.make(numbers).to(device).expand(-1, 3, -1, -1))
        sums.add(found[0])
        if keep:
            kept.append(found[0].cpu())
        if logits:
            scores.append(found[1].cpu())

    with torch.no_grad():
        in_batches(distributed.block(images.count), batch, look)
    sums.pool()
    kept, scores = distributed.collect(kept), distributed.collect(scores)
    if not distributed.is_main():
        return None
    every = (torch.cat(parts) if parts else None for parts in (kept, scores))
    return Summary(sums.moments(), *every)


class Sums:
    """Running sums of features and of their products, in float64. FID needs no more, for any number of images."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.products = torch.zeros(())

    def add(self, features: Tensor) -> None:
        """Add features (N, F)."""
        # Apple's GPUs have no float64.
        exact = (features.cpu() if features.device.type == "mps" else features).double()
        self.count += len(exact)
        self.total = self.total + exact.sum(0)
        self.products = self.products + exact.mT @ exact

    def pool(self) -> None:
        """Add up the sums of all processes, for the first process."""
        if distributed.world() > 1:
            device = self.total.device
            parts = distributed.collect([(self.count, self.total.cpu(), self.products.cpu())])
            counts, totals, products = zip(*parts, strict=True)
            self.count, self.total, self.products = sum(counts), sum(totals).to(device), sum(products).to(device)

    def moments(self) -> Moments:
        """The moments of all added features. There must be at least two."""
        mean = self.total / self.count
        return Moments(mean, (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1))


def moments_of(features: Tensor) -> Moments:
    """The moments of features (N, F), with N of at least 2."""
    sums = Sums()
    sums.add(features)
    return sums.moments()


def reference_from(summary: Summary) -> Reference:
    """Make a reference: take the root of the covariance once, because this takes longer than the rest of the metric."""
    values, vectors = torch.linalg.eigh(summary.moments.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    return Reference(summary.moments.mean.cpu(), root.cpu(), summary.features)


def frechet(fake: Moments, real: Reference) -> float:
    """The squared Frechet distance between two normal distributions (Heusel et al. 2017, equation 6).

    The product of the two covariances has the same eigenvalues as root @ covariance @ root. The latter is symmetric, so
    its eigenvalues are real and take half the time.
    """
    mean, root = real.mean.to(fake.mean), real.root.to(fake.mean)
    values = torch.linalg.eigvalsh(root @ fake.covariance @ root)
    distance = (fake.mean - mean).square().sum() + fake.covariance.trace() + root.square().sum()
    return float(distance - 2 * values.clamp(min=0).sqrt().sum())
