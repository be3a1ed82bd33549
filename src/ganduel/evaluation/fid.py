"""FID and its relatives from one pass over the features of torch-fidelity's extractors.

A number without its provenance means nothing: what statistics of real images were made of is in the file that keeps
them, and is compared before they are used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.version import __version__ as FIDELITY_VERSION

from ganduel import checkpoint, distributed
from ganduel.device import out_of_memory
from ganduel.errors import UserError
from ganduel.evaluation.extractors import Features
from ganduel.evaluation.neighbours import K_DENSITY, K_MANIFOLD, neighbourhoods
from ganduel.terminal import say

NEED_FEATURES = {"kid", "prc", "dc", "successive"}  # of every image; for FID moments will do
LEAST = {"prc": K_MANIFOLD + 1, "dc": K_DENSITY + 1, "successive": 4}  # images of each kind; of others 2


@dataclass(frozen=True)
class Images:
    """Images that are made or read when they are asked for; nothing is kept."""

    make: Callable[[range], Tensor]  # their numbers to uint8 (N, C, H, W), on any device
    count: int


class Moments(NamedTuple):
    """Mean (F,) and covariance (F, F) of features, float64."""

    mean: Tensor
    covariance: Tensor


class Summary(NamedTuple):
    """What metrics need of images: moments and, where asked for, the features (N, F) and logits (N, K) of all."""

    moments: Moments
    features: Tensor | None
    logits: Tensor | None


class Reference(NamedTuple):
    """What metrics need of real images: the mean (F,) and the root (F, F) of the covariance, float64; the features."""

    mean: Tensor
    root: Tensor
    features: Tensor | None


@contextmanager
def exact() -> Iterator[None]:
    """Without TF32, in which training may run: what is compared are small differences."""
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
    """The metrics by name: fid; kid and kid_std; isc and isc_std; precision and recall (prc); density and coverage
    (dc); successive_fid (successive), between the first and the second half of the generated images, which falls when
    they become alike.

    `reference` identifies the real images; what is known of them is kept under `cache`. Of many processes, each looks
    at a block of the images, and the first computes the values; the others return none. Raises UserError.
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
        assert made.logits is not None
        score = isc_features_to_metric(made.logits)
        values |= {"isc": score["inception_score_mean"], "isc_std": score["inception_score_std"]}
    if not keep:
        return values
    assert made.features is not None and known.features is not None
    if "kid" in which:
        size = min(1000, fake.count, real.count)
        distance = kid_features_to_metric(made.features, known.features, kid_subset_size=size, verbose=False)
        values["kid"] = distance["kernel_inception_distance_mean"]
        values["kid_std"] = distance["kernel_inception_distance_std"]
    if {"prc", "dc"} & {*which}:
        shares = neighbourhoods(made.features.to(device), known.features.to(device))
        wanted = {"precision": "prc", "recall": "prc", "density": "dc", "coverage": "dc"}
        values |= {name: value for name, value in shares.items() if wanted[name] in which}
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
    """What is known of real images, from the cache where it is there, else from a pass over them. For the first
    process, which alone reads and writes the cache.

    A file is found by the beginnings of the hashes in its name, but used only if its own account of what it was made of
    agrees in full: the images, their number, the extractor, its weights, the code.
    """
    key = f"{identity} {real.count} {features.label} {features.digest} torch-fidelity {FIDELITY_VERSION}"
    paths: dict[str, Path] = {}
    if identity is not None and cache is not None and distributed.is_main():
        name = f"real-{identity}-{real.count}-{features.identity}"
        paths = {part: cache / f"{name}-{part}.pt" for part in ("moments", *(["features"] if keep else []))}
    found = {part: recall(path, key, part) for part, path in paths.items()}
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
            say(f"warning: what is known of the real images is not kept ({str(error).partition(';')[0]})")
    return new


def recall(path: Path, key: str, part: str) -> dict[str, Tensor]:
    """What a file of the cache holds; {} if it is damaged, or was made of something else."""
    needs = ("key", "mean", "root") if part == "moments" else ("key", "features")
    try:
        content = checkpoint.load(path, needs)
    except UserError:  # not there, not whole, or not ours
        return {}
    return {name: content[name] for name in needs[1:]} if content["key"] == key else {}


def summarise(
    images: Images, features: Features, device: torch.device, batch: int, keep: bool, logits: bool = False
) -> Summary | None:
    """One pass, of which each process does a block: images go `batch` at a time to the extractor, and stay on the
    device. For the first process."""
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


def in_batches(every: range, batch: int, do: Callable[[range], None]) -> None:
    """Do something with all numbers, `batch` at a time: half as many whenever memory runs short."""
    numbers = every[:batch]
    while numbers:
        try:
            do(numbers)
            following = numbers.stop
        except (RuntimeError, MemoryError) as error:
            if len(numbers) == 1 or not out_of_memory(error):
                raise
            batch, following = len(numbers) // 2, numbers.start
        if following == numbers.start and torch.cuda.is_available():
            torch.cuda.empty_cache()  # once nothing of the failure is held any more
        numbers = range(following, min(following + batch, every.stop))


class Sums:
    """Running sums of features and of their products, in float64: FID needs no more, however many images there are."""

    def __init__(self) -> None:
        self.count = 0
        self.total = self.products = torch.zeros(())

    def add(self, features: Tensor) -> None:
        """`features` (N, F)."""
        # Apple's GPUs have no float64.
        exact = (features.cpu() if features.device.type == "mps" else features).double()
        self.count += len(exact)
        self.total = self.total + exact.sum(0)
        self.products = self.products + exact.mT @ exact

    def pool(self) -> None:
        """Make these the sums of all processes, for the first."""
        if distributed.world() > 1:
            device = self.total.device
            parts = distributed.collect([(self.count, self.total.cpu(), self.products.cpu())])
            counts, totals, products = zip(*parts, strict=True)
            self.count, self.total, self.products = sum(counts), sum(totals).to(device), sum(products).to(device)

    def moments(self) -> Moments:
        """Of what has been added, at least two."""
        mean = self.total / self.count
        return Moments(mean, (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1))


def moments_of(features: Tensor) -> Moments:
    """Of features (N, F)."""
    sums = Sums()
    sums.add(features)
    return sums.moments()


def reference_from(summary: Summary) -> Reference:
    """With the root of the covariance, which takes longer than all that follows and is the same every time."""
    values, vectors = torch.linalg.eigh(summary.moments.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    return Reference(summary.moments.mean.cpu(), root.cpu(), summary.features)


def frechet(fake: Moments, real: Reference) -> float:
    """The squared Frechet distance of two normal distributions (Heusel et al. 2017, equation 6).

    The product of two covariances has the eigenvalues of root @ covariance @ root, which is symmetric: they are found
    in half the time, and are real.
    """
    mean, root = real.mean.to(fake.mean), real.root.to(fake.mean)
    values = torch.linalg.eigvalsh(root @ fake.covariance @ root)
    distance = (fake.mean - mean).square().sum() + fake.covariance.trace() + root.square().sum()
    return float(distance - 2 * values.clamp(min=0).sqrt().sum())
