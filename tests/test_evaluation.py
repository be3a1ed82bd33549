"""Metrics and their provenance, with features that need no download."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import rows
from PIL import Image

from ganduel import build, randomness
from ganduel.augment import Chain
from ganduel.commands import cli
from ganduel.data.image_set import ImageSet, normalise
from ganduel.data.loading import open_images
from ganduel.data.prepare import prepare
from ganduel.evaluation import digit_classifier, paths
from ganduel.evaluation.evaluate import describe, evaluate
from ganduel.evaluation.extractors import Features, find_features
from ganduel.evaluation.measure import Images, Summary, frechet, measure, moments_of, reference_from
from ganduel.game import Generator, LatentGame
from ganduel.system.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def digits(compose) -> ImageSet:
    data = compose().data
    return open_images(prepare(data, 1, build.source(data, [])), data, seed=0, device=CPU)


@pytest.fixture
def digit_features(digits, packed) -> Features:
    return find_features("digits", None, digits, Path(packed.removeprefix("data.packed=")))


def real(images: ImageSet) -> Images:
    return Images(lambda numbers: images.gather(images.train[list(numbers)]), images.count)


def fake(images: torch.Tensor) -> Images:
    return Images(lambda numbers: images[list(numbers)], len(images))


def score(images, digits, kind, which=("fid",), **settings) -> dict[str, float]:
    settings = {"reference": None, "cache": None, "device": CPU, "batch": 50, **settings}
    return measure(fake(images), real(digits), kind, list(which), **settings)


def test_the_classifier_knows_its_digits(digits, digit_features):
    classifier = digit_classifier.load_classifier(digit_features.weights)
    held_out = torch.arange(0, len(digits.store.pixels), 10)
    right = classifier(digits.gather(held_out))[1].argmax(1) == digits.labels[held_out]
    assert float(right.float().mean()) > 0.95
    assert "of held-out images" in digit_features.note


def test_fid_equals_its_formula(digits, digit_features):
    """Heusel et al. 2017, equation 6, on the classifier's features."""
    images = digits.store.pixels[:300].flip(3)
    classifier = digit_classifier.load_classifier(digit_features.weights)
    a, b = (classifier(x)[0].double().numpy() for x in (images, digits.gather(digits.train)))
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root
    assert score(images, digits, digit_features)["fid"] == pytest.approx(expected, rel=1e-3)


def test_frechet_distance_is_torch_fidelitys():
    """To a millionth, on correlated features of unequal numbers of images."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(20, 20, generator=generator)
    fake, real = torch.randn(300, 20, generator=generator) @ mixed, torch.randn(400, 20, generator=generator) + 0.5
    ours = frechet(moments_of(fake), reference_from(Summary(moments_of(real), None, None)))
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (fake, real)), verbose=False)
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


@pytest.mark.slow
def test_better_images_score_better(digits, digit_features):
    real = digits.gather(digits.train)
    noise = torch.randint(0, 256, (300, *digits.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    every = ("fid", "kid", "isc", "prc")
    same, half, none = (score(x, digits, digit_features, every) for x in (real, torch.cat([real[:300], noise]), noise))
    assert set(same) == {"fid", "kid", "kid_std", "isc", "isc_std", "precision", "recall"}
    assert abs(same["fid"]) < 1e-2 < same["fid"] + half["fid"] < none["fid"]
    assert same["kid"] < half["kid"] < none["kid"]
    assert same["isc"] > none["isc"]
    assert same["precision"] > 0.9 and same["recall"] > 0.9 and none["recall"] < 0.1


class Perfect(Generator):
    """Draws real images of the asked class."""

    latent, classes, has_mapping = 1, 10, True

    def __init__(self, images: ImageSet):
        super().__init__()
        self.images, self.asked = images, torch.tensor([], dtype=torch.int64)
        labels = images.labels[images.train.long()]
        self.numbers = [images.train[labels == label] for label in range(10)]

    def map_latent(self, latent, seed=None, label=None):
        self.asked = torch.cat([self.asked, label])
        shares = randomness.uniform(seed, (), "which image").tolist()
        known = [self.numbers[label] for label in label.tolist()]
        numbers = [some[int(share * len(some))] for some, share in zip(known, shares, strict=True)]
        return normalise(self.images.gather(torch.stack(numbers)))

    def synthesis(self, w, seed=None):
        return w


@pytest.fixture
def skewed(digits) -> ImageSet:
    """All zeros, and one in four of the other digits."""
    labels = digits.labels[digits.train.long()]
    digits.train = digits.train[(labels == 0) | (torch.arange(len(labels)) % 4 == 0)]
    return digits


def test_classes_are_measured_as_frequent_as_they_are(skewed, digit_features, tmp_path):
    """A perfect generator scores like the same number of real images that NumPy draws. Were all classes drawn alike, it
    would score many times worse."""
    game = LatentGame(Perfect(skewed), torch.nn.Identity(), Chain())
    settings = {"which": ["fid"], "samples": 2000, "seed": 0, "batch": 500, "cache": tmp_path, "ema": True}
    found = evaluate(game.comparisons(game.generators, skewed), digit_features, **settings)["fid"]
    resampled = skewed.train[np.random.default_rng(0).integers(0, skewed.count, 2000)]
    assert found < 2 * score(skewed.gather(resampled), skewed, digit_features)["fid"]
    share = skewed.labels[skewed.train.long()].bincount(minlength=10) / skewed.count
    drawn = game.generators["G"].asked[-2000:].bincount(minlength=10)
    assert 0.25 < share[0] < 0.35
    assert ((drawn - 2000 * share).abs() < 4 * (2000 * share * (1 - share)).sqrt()).all()  # binomial
    alike = torch.cat([skewed.gather(some[:40]) for some in game.generators["G"].numbers])
    assert score(alike, skewed, digit_features)["fid"] > 4 * found


def test_an_image_has_its_class_wherever_it_is_drawn(skewed):
    """In any block of a measurement, and at the beginning of a walk."""
    game = LatentGame(Perfect(skewed), torch.nn.Identity(), Chain())
    (compared,) = game.comparisons(game.generators, skewed)
    whole = compared.make(range(20), 3)
    assert torch.equal(compared.make(range(5, 9), 3), whole[5:9])
    asked = game.generators["G"].asked
    assert len(asked[-24:-4].unique()) > 2 and torch.equal(asked[-4:], asked[-24:-4][5:9])
    near, _ = compared.walk(range(5, 9), 3, 0.5)
    assert torch.equal(near, whole[5:9])
    assert torch.equal(*game.generators["G"].asked[-8:].chunk(2))  # a walk stays in its class


@pytest.mark.slow
def test_batch_size_does_not_matter(digits, digit_features):
    images = digits.store.pixels[:101]
    values = [score(images, digits, digit_features, batch=batch)["fid"] for batch in (1, 7, 64)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-3)


def test_inception_offline_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"weights-inception.*cannot be downloaded.*metric.weights=FILE"):
        find_features("inception", None, None, tmp_path)


@pytest.mark.slow
def test_training_goes_on_without_inception(train, monkeypatch, capsys):
    from ganduel.runs import recorder

    def missing(*_: object) -> None:
        raise UserError("metric.features=inception needs a file")

    monkeypatch.setattr(recorder, "find_features", missing)
    assert train("metric.which=[fid]", "metric.features=inception") == 0
    error = capsys.readouterr().err
    assert error.count("training goes on without metrics") == 1 and "finished " in error


def test_weights_that_hold_code_are_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    for kind in ("inception", "digits"):
        with pytest.raises(UserError):
            found = find_features(kind, str(tmp_path / "evil.pth"), None, tmp_path)
            digit_classifier.load_classifier(found.weights)
    assert not (tmp_path / "ran").exists()


def test_digit_features_need_labels(digits, tmp_path):
    digits.labels = None
    with pytest.raises(UserError, match="needs a labelled set"):
        find_features("digits", None, digits, tmp_path)


@pytest.mark.slow
def test_gan_fid_of_a_run(train, capsys, packed):
    """The same samples give the value that training logged; the row joins metrics.jsonl and survives a resume."""
    assert train("metric.which=[fid,kid]", "metric.samples=200") == 0
    trained = rows("runs/tiny", "metrics.jsonl")[-1]
    capsys.readouterr()
    arguments = ["ckpt=runs/tiny/checkpoints/latest.pt", "metric.samples=200", "metric.which=[fid,kid]"]
    assert cli.command("fid", [*arguments, "json=true"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["fid"] == pytest.approx(trained["fid"], rel=1e-3) and row["kid"] == pytest.approx(
        trained["kid"], rel=1e-3
    )
    for name in ("features", "data", "generated", "real", "ema", "seed", "versions"):
        assert row[name] == trained[name], name
    assert cli.command("fid", [*arguments, "repeats=2", "ema=false"]) == 0
    out = capsys.readouterr().out
    for word in ("fid ", "kid ", "200 generated against 1,617 real", "digits-", "ema false", "torch_fidelity"):
        assert word in out, word
    assert train("metric.which=[fid,kid]", "metric.samples=200", "duration=5 steps") == 0
    by = [r["by"] for r in rows("runs/tiny", "metrics.jsonl")]
    assert by.count("gan-fid") == 2
    assert rows("runs/tiny", "metrics.jsonl")[-2]["by"] == "gan-fid"


def test_gan_fid_refuses_other_images(train, capsys, tmp_path):
    assert train("data.limit=100") == 0
    from ganduel import checkpoint

    path = Path("runs/tiny/checkpoints/latest.pt")
    content = checkpoint.load(path)
    content["data"]["fingerprint"] = "0"
    checkpoint.save(path, content)
    capsys.readouterr()
    assert cli.command("fid", [f"ckpt={path}", "metric.samples=50"]) == 1
    assert "these are not the images" in capsys.readouterr().err


@pytest.mark.slow
def test_gan_fid_makes_nothing_where_a_checkpoint_says(train, capsys, tmp_path):
    """The folders of a stranger's file are only looked into."""
    from ganduel import checkpoint

    assert train() == 0
    path = Path("runs/tiny/checkpoints/latest.pt")
    content = checkpoint.load(path)
    victim = tmp_path / "victim"
    for changes in ({"packed": str(victim), "root": str(victim)}, {"name": "../x"}):
        hostile = {**content, "config": {**content["config"], "data": {**content["config"]["data"], **changes}}}
        checkpoint.save(path, hostile)
        capsys.readouterr()
        assert cli.command("fid", [f"ckpt={path}", "metric.samples=16"]) == 1
        assert "data." in capsys.readouterr().err and not victim.exists()
    checkpoint.save(
        path, {**content, "config": {**content["config"], "data": {**content["config"]["data"], "packed": "no"}}}
    )
    (tmp_path / "mine").mkdir()
    assert cli.command("fid", [f"ckpt={path}", "metric.samples=16", f"data.root={tmp_path}/mine"]) == 0
    assert (tmp_path / "mine" / "packed").is_dir()


def test_a_checkpoint_of_another_version_is_measured(train, capsys):
    """Its configuration has keys that are unknown today, and lacks some that nobody reads here."""
    from ganduel import checkpoint

    assert train() == 0
    path = Path("runs/tiny/checkpoints/latest.pt")
    content = checkpoint.load(path)
    del content["config"]["health"], content["config"]["data"]["crop"], content["config"]["data"]["cache_gb"]
    content["config"]["unheard_of"] = content["config"]["data"]["unheard_of"] = 1
    checkpoint.save(path, content)
    assert cli.command("fid", [f"ckpt={path}", "metric.samples=16"]) == 0
    assert cli.command("sample", [f"ckpt={path}", "mode=neighbours", "seeds=0-1"]) == 0
    capsys.readouterr()
    assert train("duration=5 steps") == 1
    said = capsys.readouterr().err
    assert "data.unheard_of: 1 -> absent" in said and "data.crop: absent -> None" in said
    assert "health" not in said and "cache_gb" not in said  # a continued run may change these


def test_training_goes_on_when_a_measurement_fails(train, monkeypatch, capsys):
    from ganduel.runs import recorder

    def broken(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(recorder, "evaluate", broken)
    assert train("metric.which=[fid]", "metric.samples=20") == 0
    assert capsys.readouterr().err.count("training goes on without metrics") == 1


def test_folders_of_unequal_images_are_refused(tmp_path, digits, digit_features, capsys):
    from ganduel.pictures import save_png

    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for i in range(4):
            save_png(digits.store.pixels[i], tmp_path / name / f"{i}.png")
    save_png(digits.store.pixels[0, :, :20], tmp_path / "fake" / "x.png")
    arguments = [f"folders=[{tmp_path}/real,{tmp_path}/fake]", "metric.features=digits"]
    assert cli.command("fid", [*arguments, f"metric.weights={digit_features.weights}"]) == 1
    said = capsys.readouterr().err
    assert "x.png differs in size (32x32 and 32x20)" in said and "resize them with size=32" in said


def test_folders_of_unequal_images_can_be_resized_and_are_upright(tmp_path, digits, digit_features, capsys):
    """Their middle squares, turned as EXIF data asks, are the real images, so the distance is zero."""
    from ganduel.pictures import save_png

    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
    for i, image in enumerate(digits.store.pixels[:100]):
        save_png(image, tmp_path / "real" / f"{i}.png")
        wide = torch.nn.functional.pad(image, (i % 3,) * 2)[0].numpy()
        exif = Image.Exif()
        exif[0x0112] = 3 if i % 2 else 1
        Image.fromarray(wide[::-1, ::-1] if i % 2 else wide).save(tmp_path / "fake" / f"{i}.png", exif=exif)
    arguments = [f"folders=[{tmp_path}/real,{tmp_path}/fake]", "metric.features=digits", "json=true", "size=32"]
    assert cli.command("fid", [*arguments, f"metric.weights={digit_features.weights}"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["fid"] == pytest.approx(0, abs=1e-4) and row["size"] == 32 and "resized to 32x32" in row["text"]


def test_gan_fid_of_two_folders(digits, digit_features, tmp_path, capsys):
    from ganduel.pictures import save_png

    for name, images in (("real", digits.store.pixels[:200]), ("fake", digits.store.pixels[200:400])):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            save_png(image, tmp_path / name / f"{i}.png")
    folders = f"folders=[{tmp_path}/real,{tmp_path}/fake]"
    weights = f"metric.weights={digit_features.weights}"
    assert cli.command("fid", [folders, "metric.features=digits", weights, "json=true"]) == 0
    value = json.loads(capsys.readouterr().out)["fid"]
    digits.train = torch.arange(200)
    assert value == pytest.approx(score(digits.store.pixels[200:400], digits, digit_features)["fid"], rel=1e-3)
    assert cli.command("fid", []) == 1
    assert "give either ckpt=RUN_OR_FILE or folders=real,fake" in capsys.readouterr().err


def test_the_best_networks_are_kept(train):
    assert train("metric.which=[fid]", "metric.samples=100", "every.metric=1 steps", "duration=6 steps") == 0
    values = {row["step"]: row["fid"] for row in rows("runs/tiny", "metrics.jsonl")}
    assert list(values) == [0, 1, 2, 3, 4, 5, 6]
    from conftest import state

    assert state("runs/tiny", "best")["step"] == min(values, key=values.__getitem__)


@pytest.mark.slow
def test_a_poisoned_cache_is_not_used(digits, digit_features, tmp_path):
    """Statistics of other images under the right name: renamed, with their account of themselves edited, or damaged."""
    every = ("fid", "kid")
    images = digits.store.pixels[:200]
    settings = {"reference": digits.fingerprint, "cache": tmp_path}
    first = score(images, digits, digit_features, every, **settings)
    paths = sorted(tmp_path.iterdir())
    assert [path.name.rpartition("-")[2] for path in paths] == ["features.pt", "moments.pt"]
    assert all(digits.fingerprint in path.name and digit_features.identity in path.name for path in paths)
    digits.train, whole = digits.train[:300], digits.train
    other = score(images, digits, digit_features, every, reference=digits.fingerprint, cache=tmp_path)
    assert other["fid"] != pytest.approx(first["fid"], rel=0.01)
    digits.train = whole
    good = [path.read_bytes() for path in paths]
    for path in paths:
        (stranger,) = set(tmp_path.glob(f"*{path.name.rpartition('-')[2]}")) - {path}
        stranger.replace(path)
    assert score(images, digits, digit_features, every, **settings) == pytest.approx(first)
    assert [path.read_bytes() for path in paths] == good  # made anew
    for path in paths:
        content = torch.load(path, weights_only=True)
        torch.save({name: 0 * x if isinstance(x, torch.Tensor) else x for name, x in content.items()}, path)
    assert score(images, digits, digit_features, every, **settings) == pytest.approx(first)


def test_the_cache_is_used(digits, digit_features, tmp_path):
    """The second measurement looks at no real image, whatever it asks for that is there."""
    images = digits.store.pixels[:100]
    settings = {"reference": digits.fingerprint, "cache": tmp_path}
    first = score(images, digits, digit_features, ("fid", "kid", "prc"), **settings)
    digits.gather = None
    for which in (("fid", "kid", "prc"), ("fid",), ("kid",)):
        again = score(images, digits, digit_features, which, **settings)
        assert again == pytest.approx({name: first[name] for name in again})


def test_equal_numbers_are_said():
    row = {"density": 1.0, "coverage": 0.9, "generated": 2000, "real": 10_000, "data": "x", "features": "y", "note": ""}
    row |= {"ema": True, "seed": 0, "versions": {}}
    said = "2,000 generated against 10,000 real images (density and coverage use 2,000 of each), data x"
    assert said in describe(row)
    del row["coverage"]
    assert "2,000 generated against 10,000 real images, data x" in describe(row)


def test_one_image_over_and_over_scores_no_recall(digits, digit_features):
    one = digits.store.pixels[:1].expand(300, -1, -1, -1)
    values = score(one, digits, digit_features, ("prc", "dc", "successive"))
    assert values["recall"] < 0.05 and values["coverage"] < 0.05 and abs(values["successive_fid"]) < 1e-6
    varied = score(digits.store.pixels[:300], digits, digit_features, ("prc", "dc", "successive"))
    assert varied["recall"] > 0.5 and varied["coverage"] > 0.1 and varied["successive_fid"] > 1


def test_the_extractor_looks_once_at_every_image(digits, digit_features):
    """However many metrics are asked for."""
    seen = []
    digit_features.extractor.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    score(digits.store.pixels[:100], digits, digit_features, ("fid", "kid", "isc", "prc", "dc", "successive"))
    assert sum(seen) == 100 + digits.count


def test_path_length_needs_a_mapping_and_weights(train, trainer, capsys, monkeypatch, tmp_path):
    says = "ppl measures paths in the latent space w and needs a model with a mapping network"
    assert train("metric.which=[ppl]") == 1
    assert says in capsys.readouterr().err
    labelled = trainer("model.classes=10", model="projected")  # it joins a label to the latent, and maps neither
    assert labelled.game.comparisons(labelled.ema.generators, labelled.images)[0].walk is None
    assert train() == 0 and cli.command("fid", ["ckpt=runs/tiny", "metric.which=[ppl]", "metric.samples=4"]) == 1
    assert says in capsys.readouterr().err

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"ppl.*weights-vgg16-lpips.pth.*get it from https.*put it into"):
        paths.lpips()


def test_walks_begin_at_the_samples_and_go_the_way(trainer):
    """The images of a walk's beginning are those of the samples, and a step twice as far changes twice as much."""
    one = trainer(model="stylegan2_ada")
    (compared,) = one.game.comparisons(one.ema.generators, one.images)
    near, far = compared.walk(range(2, 5), 3, 0.01)
    assert torch.equal(near, compared.make(range(2, 5), 3))
    moved = float((far - near).abs().max())
    assert moved > 0
    further = compared.walk(range(2, 5), 3, 0.02)[1]
    assert float((further - near).abs().max()) == pytest.approx(2 * moved, rel=0.1)


@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_weights_that_are_not_there_are_named(kind, monkeypatch, tmp_path):
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=rf"metric.features={kind} needs .*\.pt.*{tmp_path}"):
        find_features(kind, None, None, tmp_path)


def test_an_inception_score_needs_a_classifier(digits, digit_features):
    with pytest.raises(UserError, match="isc needs a classifier, which clip is not"):
        score(digits.store.pixels[:10], digits, Features("clip", digit_features.weights), ("isc",))


def test_a_study_of_sample_sizes(train, capsys):
    """A row for every number of images, each repeated with other samples, in a table and in metrics.jsonl."""
    assert train("metric.which=[fid]", "metric.samples=20") == 0
    capsys.readouterr()
    arguments = ["ckpt=runs/tiny/checkpoints/latest.pt", "metric.samples=[4,16]", "repeats=3"]
    assert cli.command("fid", [*arguments, "json=true"]) == 0
    result = json.loads(capsys.readouterr().out)
    singles = []
    for seed in range(3):
        assert cli.command("fid", [arguments[0], "metric.samples=16", f"seed={seed}", "json=true"]) == 0
        singles.append(json.loads(capsys.readouterr().out)["fid"])
    row = result["rows"][1]
    mean, deviation = np.mean(singles), np.std(singles, ddof=1)
    assert row["fid"] == pytest.approx(mean) and row["fid_repeats_std"] == pytest.approx(deviation)
    lines = result["text"].splitlines()
    assert lines[0] == "| images | fid, mean | fid, std | fid, relative |"
    assert lines[3] == f"| 16 | {mean:.4g} | {deviation:.2g} | {deviation / mean:.1%} |"
    assert [r["generated"] for r in rows("runs/tiny", "metrics.jsonl") if r["by"] == "gan-fid"] == [4, 16, 16, 16, 16]
    for bad in ("abc", "[4,1]", "[]"):
        assert cli.command("fid", [arguments[0], f"metric.samples={bad}"]) == 1
        assert "it takes a number of images, 2 or more, or a list of them" in capsys.readouterr().err


def test_patience_ends_a_run(train, monkeypatch, capsys):
    """After so many measurements without a better one, saved and with its pictures; a resumed run counts on, and goes
    on with more patience."""
    from ganduel.runs import recorder

    found = iter([5.0, 4.0, 6.0, 7.0, 3.0, 3.5])

    def fake_measurement(*_: object, **__: object) -> dict:
        settings = {"features": "none", "note": "", "ema": True, "seed": 0, "versions": {}}
        return {"fid": next(found), "generated": 1, "real": 1, "data": "", **settings}

    monkeypatch.setattr(recorder, "evaluate", fake_measurement)
    settings = ("metric.which=[fid]", "every.metric=1 steps", "duration=5 steps", "every.sample=5 steps")
    assert train(*settings, "metric.patience=2", "every.checkpoint=5 steps") == 0
    error = capsys.readouterr().err
    assert "ended      early: 2 measurements without a better one: metric.patience=2" in error
    from conftest import state

    assert state("runs/tiny")["step"] == 3 and state("runs/tiny", "best")["step"] == 1
    assert Path("runs/tiny/samples/000000.024kimg.png").exists()
    assert train(*settings, "metric.patience=2") == 0  # at once, again
    assert state("runs/tiny")["step"] == 3
    assert train(*settings, "metric.patience=3") == 0
    assert state("runs/tiny")["step"] == 5 and state("runs/tiny", "best")["step"] == 4


def test_the_cost_of_measuring_is_told(train, capsys):
    assert train("metric.which=[fid]", "metric.samples=20", "every.metric=2 steps") == 0
    import re

    log = Path("runs/tiny/train.log").read_text()
    assert re.search(r"step 0: fid .*\(\d+\.\d s\)\n", log)
    assert re.search(r"step 4: fid \S+ \(\d+\.\d s, measuring takes \d+\.\d% of the time\)\n", log)
    lines = [json.loads(line) for line in Path("runs/tiny/stats.jsonl").read_text().splitlines()]
    assert all(0 < line["speed/measuring"] < 1 for line in lines)
