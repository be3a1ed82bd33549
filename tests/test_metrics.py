"""Metrics against their formulas, on features that cost nothing: `Stub` of measuring.py, ten numbers of the pixels."""

import math
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from measuring import EVERY, Stub, images
from scipy.linalg import sqrtm
from torch_fidelity.metric_isc import isc_features_to_metric

import ganduel
from ganduel import checkpoint
from ganduel.commands.fid import drawn
from ganduel.evaluation import manifold, paths
from ganduel.evaluation import measure as measuring
from ganduel.evaluation.evaluate import check_walks, describe, evaluate
from ganduel.evaluation.measure import Images, Moments, Reference, Sums, frechet, in_batches, measure, moments_of
from ganduel.game import Comparison
from ganduel.system import distributed
from ganduel.system.errors import UserError

CPU = torch.device("cpu")


def some(first: int, count: int) -> Images:
    return Images(partial(images, [], first), count)


def found(of: Images) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 10) and logits (N, 5), by the extractor itself."""
    features, logits = Stub.extractor(of.make(range(of.count)))
    return features.double().numpy(), logits.double().numpy()


def score(which: list[str], fakes: int = 60, reals: int = 60, **settings: Any) -> dict[str, float]:
    settings = {"reference": None, "cache": None, "device": CPU, "batch": 16, **settings}
    return measure(some(0, fakes), some(1000, reals), Stub(), which, **settings)  # type: ignore[arg-type]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Heusel et al. 2017, equation 6."""
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(means + np.trace(one + other - 2 * sqrtm(one @ other).real))


# FID and its relatives


def test_frechet_distance_by_hand():
    """Of independent coordinates it is (mean - mean)^2 + (deviation - deviation)^2 of each, summed."""
    fake = Moments(torch.tensor([1.0, 5.0]).double(), torch.diag(torch.tensor([4.0, 9.0])).double())
    real = Reference(torch.tensor([3.0, 4.0]).double(), torch.diag(torch.tensor([5.0, 1.0])).double(), None)
    assert frechet(fake, real) == pytest.approx(2**2 + 1**2 + (2 - 5) ** 2 + (3 - 1) ** 2)


def test_frechet_distance_of_a_covariance_without_full_rank():
    """Fewer images than features: some eigenvalues are 0, or rounding makes them a little less."""
    fake, real = torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    known = measuring.reference_from(measuring.Summary(moments_of(real), None, None))
    assert frechet(moments_of(fake), known) == pytest.approx(distance(fake.numpy(), real.numpy()), abs=1e-6)
    assert frechet(moments_of(real), known) == pytest.approx(0, abs=1e-6)


def test_moments_are_numpys():
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 2 + 5
    sums = Sums()
    for part in features.split([4, 1, 2]):
        sums.add(part)
    for mean, covariance in (sums.moments(), moments_of(features)):
        assert mean.dtype == covariance.dtype == torch.float64
        assert mean.numpy() == pytest.approx(features.double().numpy().mean(0), rel=1e-12)
        assert covariance.numpy() == pytest.approx(np.cov(features.double().numpy(), rowvar=False), rel=1e-10)


def test_sums_of_two_processes(monkeypatch):
    one, other = Sums(), Sums()
    one.add(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    other.add(torch.tensor([[4.0, 0.0]]))
    monkeypatch.setattr(distributed, "collect", lambda parts: [*parts, (other.count, other.total, other.products)])
    one.pool()
    assert one.count == 2  # one process alone has no others to ask
    monkeypatch.setattr(distributed, "world", lambda: 2)
    one.pool()
    mean, covariance = one.moments()
    every = np.array([[1, 2], [3, 5], [4, 0]])
    assert mean.numpy() == pytest.approx(every.mean(0)) and covariance.numpy() == pytest.approx(np.cov(every.T))


@pytest.mark.parametrize("batch", [7, 60])
def test_every_metric_is_its_formula(batch):
    values = score(EVERY, batch=batch)
    assert len(values) == 10
    (a, logits), (b, _) = found(some(0, 60)), found(some(1000, 60))
    assert values["fid"] == pytest.approx(distance(a, b), rel=1e-6)
    assert values["successive_fid"] == pytest.approx(distance(a[:30], a[30:]), rel=1e-6)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / 10 + 1) ** 3

    inside = sum(kernel(x, x).sum() - np.trace(kernel(x, x)) for x in (a, b)) / (60 * 59)
    assert values["kid"] == pytest.approx(inside - 2 * kernel(a, b).mean(), rel=1e-5)  # Binkowski et al. 2018
    assert 0 < values["kid_std"] < 1e-5 * values["kid"]  # every subset is the whole, but for rounding
    theirs = isc_features_to_metric(torch.from_numpy(logits))
    assert values["isc"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert values["isc_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-4)
    features = [torch.from_numpy(each).float() for each in (a, b)]
    expected = {**manifold.precision_and_recall(*features), **manifold.density_and_coverage(*features)}
    assert {name: values[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("which", "names"),
    [
        (["fid"], {"fid"}),
        (["kid"], {"kid", "kid_std"}),
        (["isc"], {"isc", "isc_std"}),
        (["prc"], {"precision", "recall"}),
        (["dc"], {"density", "coverage"}),
        (["successive"], {"successive_fid"}),
        ([], set()),
    ],
)
def test_only_what_is_asked_for_is_computed(which, names):
    if not which:
        with pytest.raises(ValueError):
            score(which)
    else:
        assert score(which).keys() == names


def test_kid_takes_subsets_of_at_most_1000(monkeypatch):
    """And of no more than there are of either kind."""
    sizes = []

    def kid(fake: torch.Tensor, real: torch.Tensor, kid_subset_size: int, verbose: bool) -> dict[str, float]:
        assert not verbose
        sizes.append(kid_subset_size)
        return {"kernel_inception_distance_mean": 0.0, "kernel_inception_distance_std": 0.0}

    monkeypatch.setattr("torch_fidelity.metric_kid.kid_features_to_metric", kid)
    for fakes, reals in ((20, 30), (30, 20), (1001, 1002)):
        score(["kid"], fakes, reals)
    assert sizes == [20, 20, 1000]


@pytest.mark.parametrize(
    ("which", "least"),
    [(["fid"], 2), (["kid"], 2), (["prc", "fid"], 4), (["dc", "prc"], 6), (["successive"], 4), (["isc"], 10)],
)
def test_how_few_images_will_do(which, least):
    for counts in ((least - 1, 19), (19, least - 1)):
        with pytest.raises(UserError, match=f"too few for {', '.join(which)}; {least} or more of each"):
            score(which, *counts)
    assert score(which, least, least)


def test_grey_images_are_seen_as_three_equal_channels():
    grey = Images(lambda numbers: images([], 0, numbers)[:, :1], 9)
    seen = []
    stub = Stub()
    stub.extractor = lambda x: seen.append(x) or Stub.extractor(x)  # type: ignore[assignment]
    stub.extractor.to = lambda device: stub.extractor  # type: ignore[attr-defined]
    summary = measuring.summarise(grey, stub, CPU, 4, keep=True, logits=False)  # type: ignore[arg-type]
    assert [x.shape for x in seen] == [(4, 3, 4, 4), (4, 3, 4, 4), (1, 3, 4, 4)]
    assert all(torch.equal(x, x[:, :1].expand(-1, 3, -1, -1)) for x in seen)
    assert summary is not None and summary.features is not None and len(summary.features) == 9
    assert not summary.features.requires_grad and summary.logits is None
    plain = measuring.summarise(grey, stub, CPU, 4, keep=False)  # type: ignore[arg-type]
    assert plain is not None and plain.features is plain.logits is None


def test_only_the_first_process_has_values(monkeypatch):
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    assert score(["fid"]) == {}


def test_features_are_exact_where_training_is_not():
    """TF32 is off for a measurement, and on again after it."""
    settings, seen = (torch.backends.cuda.matmul, torch.backends.cudnn), []
    before = [s.allow_tf32 for s in settings]
    hook = Stub.extractor.register_forward_hook(lambda *_: seen.extend(s.allow_tf32 for s in settings))
    try:
        for on in (True, False):
            for s in settings:
                s.allow_tf32 = on
            score(["fid"])
            assert seen and not any(seen) and all(s.allow_tf32 == on for s in settings)
    finally:
        hook.remove()
        for s, was in zip(settings, before, strict=True):
            s.allow_tf32 = was


# What is kept of real images


def test_what_is_kept_says_what_it_was_made_of(tmp_path):
    """FID alone keeps moments; what needs the features of every image keeps those as well."""
    score(["fid"], reference="abc", cache=tmp_path)
    name = "real-abc-60-stub-0"
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}-moments.pt"]
    first = score(["fid", "kid"], reference="abc", cache=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}-moments.pt", f"{name}-features.pt"}
    key = f"abc 60 stub 0 torch-fidelity {measuring.FIDELITY_VERSION}"
    features, moments = (checkpoint.load(tmp_path / f"{name}-{part}.pt", ()) for part in ("features", "moments"))
    b, _ = found(some(1000, 60))
    assert features["key"] == moments["key"] == key
    assert features["features"].numpy() == pytest.approx(b, rel=1e-6)
    assert moments["mean"].numpy() == pytest.approx(b.mean(0), rel=1e-6)
    assert (moments["root"] @ moments["root"]).numpy() == pytest.approx(np.cov(b.T), rel=1e-6, abs=1e-9)
    checkpoint.save(tmp_path / f"{name}-moments.pt", {**moments, "mean": moments["mean"] + 1})
    moved = score(["fid", "kid"], reference="abc", cache=tmp_path)  # so it was read
    assert moved["fid"] != pytest.approx(first["fid"]) and moved["kid"] == pytest.approx(first["kid"])
    checkpoint.save(tmp_path / f"{name}-moments.pt", {**moments, "mean": moments["mean"] + 1, "key": key + "!"})
    assert score(["fid", "kid"], reference="abc", cache=tmp_path) == pytest.approx(first)  # made of something else


def test_nothing_is_kept_of_images_without_a_name(tmp_path):
    score(["fid"], reference=None, cache=tmp_path)
    score(["fid"], reference="abc", cache=None)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_told_and_costs_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert score(["fid"], reference="abc", cache=tmp_path / "file") == score(["fid"])
    said = capsys.readouterr().err
    assert said.startswith("warning: the statistics of the real images cannot be cached (") and ";" not in said


def test_a_damaged_file_holds_nothing(tmp_path):
    (tmp_path / "damaged.pt").write_bytes(b"no checkpoint")
    checkpoint.save(tmp_path / "whole.pt", {"key": "k", "features": torch.ones(2)})
    assert measuring.cached(tmp_path / "missing.pt", "k", "features") == {}
    assert measuring.cached(tmp_path / "damaged.pt", "k", "features") == {}
    assert measuring.cached(tmp_path / "whole.pt", "other", "features") == {}
    assert measuring.cached(tmp_path / "whole.pt", "k", "moments") == {}  # it has none
    assert list(measuring.cached(tmp_path / "whole.pt", "k", "features")) == ["features"]


# Batches


@pytest.mark.parametrize(("batch", "sizes"), [(4, [4, 4, 2]), (10, [10]), (11, [10]), (1, [1] * 10)])
def test_batches(batch, sizes):
    done: list[range] = []
    in_batches(range(5, 15), batch, done.append)
    assert [len(numbers) for numbers in done] == sizes
    assert [number for numbers in done for number in numbers] == list(range(5, 15))


def test_a_batch_that_does_not_fit_is_halved():
    done, tried = [], []

    def do(numbers: range) -> None:
        tried.append(len(numbers))
        if len(numbers) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(numbers)

    in_batches(range(11), 8, do)
    assert done == list(range(11)) and tried == [8, 4, 2, 2, 2, 2, 2, 1]
    with pytest.raises(torch.OutOfMemoryError):
        in_batches(range(3), 8, lambda numbers: do(range(9)))
    with pytest.raises(RuntimeError, match="something else"):
        in_batches(range(3), 8, lambda numbers: (_ for _ in ()).throw(RuntimeError("something else")))


def test_memory_is_given_back_after_a_batch_that_did_not_fit(monkeypatch):
    """On CUDA, and then alone."""
    emptied, failures = [], [torch.OutOfMemoryError("CUDA out of memory")]

    def do(numbers: range) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    for cuda, times in ((True, 1), (False, 1)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        in_batches(range(4), 2, do)
        assert len(emptied) == times
        failures = [MemoryError()]


# Neighbours


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def test_radii_by_hand():
    """The third and the fifth neighbour on a line, of the nearest first; of few points the last."""
    line = numbers(0, 1, 3, 7, 15, 31, 63)
    assert manifold.radii(line, 3).tolist() == [7, 6, 4, 7, 14, 28, 56]
    assert manifold.radii(line, 5).tolist() == [31, 30, 28, 24, 16, 31, 62]
    assert manifold.radii(line[:4], 3).tolist() == manifold.radii(line[:4], 5).tolist() == [7, 6, 4, 7]
    assert manifold.radii(line[:3], 3).tolist() == [3, 2, 3]


def test_neighbourhoods_by_hand():
    """Edges belong to the neighbourhoods of precision and recall, and not to those of density and coverage.

    The third neighbour of a real image is 3, 2, 2, 2, 2 or 3 away, the fifth 5, 4, 3, 3, 4 or 5.
    """
    real, fake = numbers(0, 1, 2, 3, 4, 5), numbers(8, 9, 28, 38, 48, 58)
    assert manifold.precision_and_recall(fake, real)["precision"] == pytest.approx(1 / 6)  # 8 is at the edge of 5's
    assert manifold.precision_and_recall(real, fake)["recall"] == pytest.approx(1 / 6)  # the other way round
    values = manifold.density_and_coverage(fake, real)
    assert values["density"] == pytest.approx(2 / (5 * 6))  # 8 and 9 are within 5's, and 8 is at the edge of 4's
    assert values["coverage"] == pytest.approx(1 / 6)


def test_precision_and_recall_are_torch_fidelitys():
    """Of all images, however many there are of each kind."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    for overlap in (0.0, 0.7, 2.0):
        generator = torch.Generator().manual_seed(0)
        fake, real = torch.randn(90, 5, generator=generator), torch.randn(130, 5, generator=generator) * 1.5 + overlap
        ours = manifold.precision_and_recall(fake, real)
        theirs = prc_features_to_metric(fake, real, verbose=False)
        assert (ours["precision"], ours["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
        assert 0.05 < ours["recall"] < 0.95 or overlap == 2


def test_density_and_coverage_are_their_formulae():
    """Naeem et al. 2020, section 3."""
    for overlap in (0.0, 0.7, 2.0):
        generator = torch.Generator().manual_seed(0)
        fake, real = torch.randn(90, 5, generator=generator), torch.randn(90, 5, generator=generator) * 1.5 + overlap
        ours = manifold.density_and_coverage(fake, real)
        between = (fake[:, None] - real).square().sum(2).sqrt()
        radius = (real[:, None] - real).square().sum(2).sqrt().sort(1).values[:, 5]
        density = sum(float((between[i] < radius).sum()) for i in range(90)) / (5 * 90)
        coverage = sum(bool(between[:, j].min() < radius[j]) for j in range(90)) / 90
        assert (ours["density"], ours["coverage"]) == pytest.approx((density, coverage), abs=1e-6)


@pytest.mark.parametrize(("fakes", "reals"), [(100, 100), (100, 500), (500, 100)])
def test_a_perfect_generator_covers_what_it_should(fakes, reals):
    """However many images there are of each kind, in whatever order: of M of each, an expected coverage of
    1 - (M - 1) ... (M - k) / (2M - 1) ... (2M - k) (Naeem et al. 2020, section 3), and a density of 1."""
    expected = 1 - math.prod((100 - i) / (200 - i) for i in range(1, 6))
    found = []
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        fake, real = (torch.randn(count, 8, generator=generator) for count in (fakes, reals))
        found.append(manifold.density_and_coverage(*(some[some[:, 0].argsort()] for some in (fake, real))))
    density, coverage = (np.mean([values[name] for values in found]) for name in ("density", "coverage"))
    assert density == pytest.approx(1, abs=0.06) and coverage == pytest.approx(expected, abs=0.015)  # four deviations


@pytest.mark.parametrize("compare", [manifold.precision_and_recall, manifold.density_and_coverage])
def test_distances_in_parts_are_the_same(monkeypatch, compare):
    generator = torch.Generator().manual_seed(0)
    fake, real = torch.randn(40, 5, generator=generator), torch.randn(50, 5, generator=generator)
    whole = compare(fake, real)
    monkeypatch.setattr(manifold, "AT_ONCE", 350)
    assert compare(fake, real) == pytest.approx(whole)


def test_how_many_distances_are_in_memory(monkeypatch):
    """2^26, a quarter of a gigabyte, or those of one image."""
    assert manifold.rows(torch.zeros(2**10, 1)) == 2**16 and manifold.rows(torch.zeros(2**27, 0)) == 1
    monkeypatch.setattr(manifold, "AT_ONCE", 239)
    assert [len(part) for part in manifold.between(torch.zeros(12, 3), torch.zeros(40, 3))] == [5, 5, 2]


# Path lengths


def test_path_length_of_a_linear_generator(monkeypatch):
    """With the mean squared difference as distance: that of the ends; the extremes do not count."""
    generator = torch.Generator().manual_seed(0)
    start, goal = (torch.randn(200, 1, 4, 4, generator=generator, dtype=torch.float64) / 10 for _ in range(2))
    goal[7] += 1000

    class Difference(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert a.shape[1:] == (3, 4, 4)
            return (a - b).square().mean((1, 2, 3))[:, None]

    def walk(numbers: range, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = start[list(numbers)], goal[list(numbers)]
        return a, torch.lerp(a, b, share)

    monkeypatch.setattr(paths, "lpips", Difference)
    monkeypatch.setattr(paths, "STEP", 0.5)
    lengths = (127.5 * (start - goal)).square().mean((1, 2, 3)).sort().values
    expected = float(lengths[1:-1].mean())  # of 200, the 1st percentile lies between the 2nd and the 3rd
    for batch in (1, 64):
        assert paths.path_length(walk, 200, CPU, batch) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("step", [1e-4, 8.0])
def test_path_length_leaves_out_the_extremes(monkeypatch, step):
    """Of 200 distances, one at either end; each is divided by the square of the step, which is 1e-4."""
    assert paths.STEP == 1e-4
    lengths = (torch.randperm(200, generator=torch.Generator().manual_seed(0)) + 1) / 1024  # no rounding anywhere

    class Height(torch.nn.Module):
        def forward(self, near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
            return (far - near).mean((1, 2, 3), keepdim=True)[:, :, 0]

    def walk(numbers: range, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        assert share == step
        near = torch.zeros(len(numbers), 1, 2, 2)
        return near, near + lengths[list(numbers)].reshape(-1, 1, 1, 1)

    monkeypatch.setattr(paths, "lpips", Height)
    monkeypatch.setattr(paths, "STEP", step)
    expected = 127.5 * sum(range(2, 200)) / 198 / 1024 / step**2
    for batch in (7, 200):
        assert paths.path_length(walk, 200, CPU, batch) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    assert math.isnan(paths.path_length(walk, 200, CPU, 200))


def test_images_are_prepared_for_the_distance():
    """From [-1, 1] to 0 to 255, in three channels; beyond 256 pixels a side they are averaged, not picked."""
    images = torch.tensor([-1.0, -0.5, 0.0, 1.0]).view(4, 1, 1, 1).expand(4, 1, 256, 256)
    same = paths.prepared(images)
    assert same.shape == (4, 3, 256, 256) and same[:, 0, 0, 0].tolist() == [0, 63.75, 127.5, 255]
    images = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
    halved = paths.prepared(images)
    blocks = images.view(1, 3, 256, 2, 256, 2).mean((3, 5))
    assert torch.allclose(halved, (blocks + 1) * 127.5, atol=1e-4)
    assert paths.prepared(torch.zeros(1, 3, 257, 257)).shape == (1, 3, 256, 256)
    assert paths.prepared(torch.zeros(1, 3, 8, 8, dtype=torch.float16)).dtype == torch.float32


def test_distances_are_lpips_of_vgg16_on_the_cpu(monkeypatch, tmp_path):
    """Loaded once; both files are asked for first."""
    asked: list[tuple[Any, ...]] = []
    made: list[Any] = []
    monkeypatch.setattr(paths, "hub", lambda: tmp_path)
    monkeypatch.setattr(paths, "needed", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(
        "torch_fidelity.utils.create_sample_similarity", lambda *name, **how: made.append((name, how)) or object()
    )
    paths.lpips.cache_clear()
    assert paths.lpips() is paths.lpips()
    paths.lpips.cache_clear()
    assert made == [(("lpips-vgg16",), {"cuda": False, "sample_similarity_dtype": "float32", "verbose": False})]
    assert [path for path, *_ in asked] == [
        Path(tmp_path, "checkpoints", name) for name in ("weights-vgg16-lpips.pth", "vgg16-397923af.pth")
    ]
    assert [rest[1] for _, *rest in asked] == ["metric.which=ppl"] * 2


# What is measured, and how it is said


class GreyImages:
    """What `evaluate` asks of an ImageSet: image n is all `first` + n."""

    about: ClassVar = {"name": "greys"}
    device, shape = CPU, (1, 4, 4)

    def __init__(self, first: int):
        self.first = first

    def identity(self, numbers: torch.Tensor) -> str:
        return f"id{len(numbers)}"

    def gather(self, numbers: torch.Tensor) -> torch.Tensor:
        return (numbers + self.first).to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, *self.shape)


class Mean(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return images.double().mean((1, 2, 3))[:, None], None


class Greys(Stub):
    identity, note, extractor = "greys-0", "a stub", Mean()


def greys(name: str, offset: float, most: int | None = None, ends: torch.Tensor | None = None) -> Comparison:
    """Real images are all 0, 1, ..., 9; the generated ones all 100 and then `seed` + `offset`, by turns."""

    def make(numbers: range, seed: int) -> torch.Tensor:
        values = torch.tensor([100.0 if n % 2 == 0 else seed + offset for n in numbers])
        return (values / 127.5 - 1).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    def walk(numbers: range, seed: int, step: float) -> tuple[torch.Tensor, torch.Tensor]:
        assert seed == 7
        assert ends is not None
        return torch.zeros(len(numbers), 1, 4, 4), ends[list(numbers)] * step

    where = None if ends is None else walk
    return Comparison(name, make, most, GreyImages(3), torch.arange(10), where)  # type: ignore[arg-type]


def evaluated(comparisons: list[Comparison], **settings) -> dict[str, Any]:
    given = {"which": ["fid"], "samples": 8, "seed": 7, "batch": 3, "cache": None, "ema": True, **settings}
    return evaluate(comparisons, Greys(), **given)  # type: ignore[arg-type]


def frechet_of(fakes: list[float], reals: list[float]) -> float:
    """Of single numbers: (difference of means)^2 + (difference of deviations)^2."""
    (m, s), (n, t) = ((np.mean(x), np.std(x, ddof=1)) for x in (fakes, reals))
    return float((m - n) ** 2 + (s - t) ** 2)


def test_a_measurement_is_of_the_images_that_were_asked_for():
    row = evaluated([greys("", 50)])
    assert row.pop("versions")["ganduel"] == ganduel.__version__
    expected = frechet_of([100, 57] * 4, list(range(3, 13)))
    assert row == {
        "fid": pytest.approx(expected, rel=1e-9),
        "generated": 8,
        "real": 10,
        "data": "greys 1x4x4 id10",
        "features": "greys-0",
        "note": "a stub",
        "ema": True,
        "seed": 7,
    }


def test_a_generator_of_few_images_makes_all_of_them():
    assert evaluated([greys("", 50, most=6)])["generated"] == 6
    assert evaluated([greys("", 50, most=9)])["generated"] == 8


def test_of_several_comparisons_the_mean_has_no_name():
    row = evaluated([greys("_a", 50), greys("_b", 90)])
    fids = [frechet_of([100, 7 + offset] * 4, list(range(3, 13))) for offset in (50, 90)]
    assert [row[key] for key in ("fid_a", "fid_b", "fid")] == pytest.approx([*fids, sum(fids) / 2], rel=1e-9)
    assert "generated" not in row
    assert "data" not in row


def test_a_measurement_asks_before_each_batch_whether_to_go_on():
    asked: list[None] = []
    evaluated([greys("", 50)], proceed=lambda: asked.append(None))
    assert len(asked) == 3 + 4  # 8 generated and 10 real images, 3 at a time


def test_path_length_may_be_asked_for_alone_or_with_others(monkeypatch):
    class Squares(torch.nn.Module):
        def forward(self, near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
            return (far - near).square().mean((1, 2, 3))

    monkeypatch.setattr(paths, "lpips", Squares)
    monkeypatch.setattr(paths, "STEP", 0.5)
    asked: list[None] = []
    ends = torch.full((8, 1, 4, 4), 2 / 127.5)
    row = evaluated([greys("", 50, ends=ends)], which=["ppl"], proceed=lambda: asked.append(None))
    assert row["ppl"] == pytest.approx(4, rel=1e-6)  # (0.5 x 2)^2 / 0.5^2, in units of bytes
    assert "fid" not in row
    assert asked
    row = evaluated([greys("", 50, ends=ends)], which=["ppl", "successive"])
    assert row["ppl"] == pytest.approx(4, rel=1e-6)
    assert row["successive_fid"] == pytest.approx(0, abs=1e-9)  # both halves are the same
    row = evaluated([greys("", 50, ends=ends)], which=["fid", "ppl"])
    assert row["ppl"] == pytest.approx(4, rel=1e-6)
    assert row["fid"] == pytest.approx(frechet_of([100, 57] * 4, list(range(3, 13))), rel=1e-9)


def test_path_length_needs_walks():
    ends = torch.zeros(8, 1, 4, 4)
    check_walks([greys("", 0)], ["fid"])
    check_walks([greys("", 0, ends=ends)], ["ppl"])
    with pytest.raises(
        UserError, match="ppl measures paths in the latent space w and needs a model with a mapping network"
    ):
        evaluated([greys("_a", 0, ends=ends), greys("_b", 0)], which=["ppl"])


ROW = {
    "features": "digits-1",
    "ema": False,
    "seed": 3,
    "versions": {"ganduel": "1.0", "torch": "2.9"},
}


def test_a_row_is_said_with_all_that_it_depends_on():
    row = ROW | {"isc": 2.0, "isc_std": 1.0, "fid": 12.3456, "generated": 2000, "real": 10000, "data": "x", "note": ""}
    expected = (
        "fid 12.35, isc 2: 2,000 generated against 10,000 real images, data x, "
        "features digits-1, ema false, seed 3, ganduel 1.0, torch 2.9"
    )
    assert describe(row) == expected
    repeats = describe(row | {"fid_repeats_std": 0.123, "note": "a stub", "ema": True})
    assert repeats.startswith("fid 12.35 ± 0.12, isc 2: 2,000")
    assert "features digits-1 (a stub), ema true" in repeats


def test_several_comparisons_are_said_with_their_mean():
    values = {"fid_a": 1.0, "generated_a": 5, "real_a": 6, "data_a": "x", "fid": 2.0}
    values |= {"fid_b": 3.0, "generated_b": 7, "real_b": 8, "data_b": "y"}
    assert describe(ROW | values | {"note": ""}).startswith(
        "fid_a 1: 5 generated against 6 real images, data x; fid_b 3: 7 generated against 8 real images, data y; "
        "mean fid 2, features"
    )


@pytest.mark.parametrize(
    ("generated", "real", "said"),
    [
        (2000, 10000, " (density and coverage use 2,000 of each), data"),
        (300, 200, " (density and coverage use 200 of each), data"),
        (300, 300, "300 real images, data"),
    ],
)
def test_density_and_coverage_say_of_how_many_they_are(generated, real, said):
    row = ROW | {"note": "", "coverage": 0.5, "density": 0.9, "generated": generated, "real": real, "data": "x"}
    assert said in describe(row)
    assert "of each" not in describe({key: value for key, value in row.items() if key != "coverage"})


def test_batches_can_be_compared_with_batches():
    """As in report R3: every repeat draws other real images, without repetition."""
    real = torch.arange(100, 120)
    one = Comparison("_A", lambda numbers, seed: torch.empty(0), None, None, real)
    found = [drawn([one], 5, seed)[0].real.tolist() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert all(len({*some}) == 5 and {*some} <= {*real.tolist()} for some in found)
    assert sorted(drawn([one], 20, 0)[0].real.tolist()) == real.tolist()
    with pytest.raises(UserError, match=r"metric.samples=21 with metric.reals=equal: there are 20 real images"):
        drawn([one], 21, 0)
