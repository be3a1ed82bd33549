"""Metrics and their provenance, with features that need no download."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import rows

from ganduel import cli
from ganduel.data.loading import ImageSet, open_images
from ganduel.data.prepare import prepare
from ganduel.errors import UserError
from ganduel.evaluation import features
from ganduel.evaluation.fid import Batched, Features, find_features, measure

CPU = torch.device("cpu")


@pytest.fixture
def digits(compose) -> ImageSet:
    data = compose()["data"]
    return open_images(prepare(data, 1, []), data, seed=0, device=CPU)


@pytest.fixture
def digit_features(digits, packed) -> Features:
    return find_features("digits", None, digits, Path(packed.removeprefix("data.packed=")))


def real(images: ImageSet) -> Batched:
    return Batched(lambda numbers: images.gather(images.train[list(numbers)]), images.count, 50)


def fake(images: torch.Tensor) -> Batched:
    return Batched(lambda numbers: images[list(numbers)], len(images), 50)


def score(images, digits, kind, which=("fid",), **settings) -> dict[str, float]:
    settings = {"reference": None, "cache": None, "device": CPU, "batch": 50, **settings}
    return measure(fake(images), real(digits), kind, list(which), **settings)


def test_the_classifier_knows_its_digits(digits, digit_features):
    classifier = features.load_classifier(digit_features.weights)
    held_out = torch.arange(0, len(digits.store.pixels), 10)
    right = classifier(digits.gather(held_out))[1].argmax(1) == digits.labels[held_out]
    assert float(right.float().mean()) > 0.95
    assert "of held-out images" in digit_features.note


def test_fid_equals_its_formula(digits, digit_features):
    """Heusel et al. 2017, equation 6, on the classifier's features."""
    images = digits.store.pixels[:300].flip(3)
    classifier = features.load_classifier(digit_features.weights)
    a, b = (classifier(x)[0].double().numpy() for x in (images, digits.gather(digits.train)))
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root
    assert score(images, digits, digit_features)["fid"] == pytest.approx(expected, rel=1e-3)


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


def test_batch_size_does_not_matter(digits, digit_features):
    images = digits.store.pixels[:101]
    values = [score(images, digits, digit_features, batch=batch)["fid"] for batch in (1, 7, 64)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-3)


def test_cached_statistics_belong_to_their_images_and_weights(digits, digit_features, tmp_path):
    images = digits.store.pixels[:200]
    first = score(images, digits, digit_features, reference=digits.fingerprint, cache=tmp_path)["fid"]
    (statistics,) = tmp_path.glob("*stat-fid*")
    assert digits.fingerprint in statistics.name and digit_features.identity in statistics.name
    torch.save({"mu": np.zeros(64, np.float32), "sigma": np.eye(64)}, statistics)  # poison: it is used ...
    assert score(images, digits, digit_features, reference=digits.fingerprint, cache=tmp_path)["fid"] != first
    digits.train = digits.train[:-1]  # ... but not for other images
    again = score(images, digits, digit_features, reference=digits.fingerprint, cache=tmp_path)["fid"]
    assert again == pytest.approx(first, rel=0.05)


def test_inception_offline_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"weights-inception.*cannot be downloaded.*metric.weights=FILE"):
        find_features("inception", None, None, tmp_path)


def test_training_goes_on_without_inception(train, monkeypatch, capsys):
    from ganduel import record

    def missing(*_: object) -> None:
        raise UserError("metric.features=inception needs a file")

    monkeypatch.setattr(record, "find_features", missing)
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
            features.load_classifier(found.weights)
    assert not (tmp_path / "ran").exists()


def test_digit_features_need_labels(digits, tmp_path):
    digits.labels = None
    with pytest.raises(UserError, match="needs a labelled set"):
        find_features("digits", None, digits, tmp_path)


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
    assert cli.command("fid", [f"ckpt={path}", "metric.samples=16", f"data.root={tmp_path}/mine"]) == 0
    assert (tmp_path / "mine" / "packed").is_dir()


def test_training_goes_on_when_a_measurement_fails(train, monkeypatch, capsys):
    from ganduel import record

    def broken(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(record, "evaluate", broken)
    assert train("metric.which=[fid]", "metric.samples=20") == 0
    assert capsys.readouterr().err.count("training goes on without metrics") == 1


def test_folders_of_unequal_images_are_refused(tmp_path, digits, digit_features, capsys):
    from ganduel.sampling.grids import save_png

    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for i in range(4):
            save_png(digits.store.pixels[i], tmp_path / name / f"{i}.png")
    save_png(digits.store.pixels[0, :, :20], tmp_path / "fake" / "x.png")
    arguments = [f"folders=[{tmp_path}/real,{tmp_path}/fake]", "metric.features=digits"]
    assert cli.command("fid", [*arguments, f"metric.weights={digit_features.weights}"]) == 1
    assert "x.png differs in size (32x32 and 32x20)" in capsys.readouterr().err


def test_gan_fid_of_two_folders(digits, digit_features, tmp_path, capsys):
    from ganduel.sampling.grids import save_png

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
    assert "give either ckpt=RUN_OR_FILE or folders=[real,fake]" in capsys.readouterr().err


def test_the_best_networks_are_kept(train):
    assert train("metric.which=[fid]", "metric.samples=100", "every.metric=1 steps", "duration=6 steps") == 0
    values = {row["step"]: row["fid"] for row in rows("runs/tiny", "metrics.jsonl")}
    assert list(values) == [0, 1, 2, 3, 4, 5, 6]
    from conftest import state

    assert state("runs/tiny", "best")["step"] == min(values, key=values.__getitem__)
