"""gan-sample, and `ganduel.load`."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import ganduel
from ganduel import cli
from ganduel.sample import parse_seeds


@pytest.fixture
def run(train, capsys) -> Path:
    assert train("duration=6 steps") == 0
    capsys.readouterr()
    return Path("runs/tiny")


def test_one_seed_is_one_image_whatever_the_batch(run):
    sampler = ganduel.load(run)
    whole = sampler.sample(range(10), batch=10)
    assert whole.shape == (10, 1, 32, 32) and whole.abs().max() <= 1
    assert torch.allclose(whole, sampler.sample(range(10), batch=3), atol=1e-6)
    assert torch.allclose(whole[[7, 2]], sampler.sample([7, 2]), atol=1e-6)
    assert not torch.allclose(whole[0], whole[1])


def test_ema_and_trained_weights_differ(run):
    averaged, trained = (ganduel.load(run, ema=ema).sample(range(4)) for ema in (True, False))
    assert not torch.equal(averaged, trained)


def test_grid(run, capsys):
    assert cli.command("sample", ["ckpt=runs/tiny"]) == 0
    assert capsys.readouterr().out == "runs/tiny/grid.png\n"
    with Image.open(run / "grid.png") as image:
        assert image.size == (8 * 34 + 2, 8 * 34 + 2)
    # It shows what training showed last.
    assert (run / "grid.png").read_bytes() == (run / "samples" / "000000kimg.png").read_bytes()
    assert cli.command("sample", ["ckpt=runs/tiny", "seeds=[3,1,4]", "mode.columns=3", "out=some where/x.png"]) == 0
    with Image.open("some where/x.png") as image:
        assert image.size == (3 * 34 + 2, 34 + 2)


def test_images(run, capsys):
    assert cli.command("sample", ["ckpt=runs/tiny/checkpoints/latest.pt", "mode=images", "count=5", "json=true"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "runs/tiny/images"}
    names = sorted(p.name for p in (run / "images").iterdir())
    assert names == [f"{i:06d}.png" for i in range(5)]
    with Image.open(run / "images" / "000003.png") as image:
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32)
    assert torch.equal(pixels, ganduel.load(run).bytes([3])[0, 0])


def test_a_checkpoint_needs_nothing_else(run, tmp_path):
    moved = tmp_path / "elsewhere.pt"
    (run / "checkpoints" / "latest.pt").rename(moved)
    assert cli.command("sample", [f"ckpt={moved}", "count=4"]) == 0
    assert (tmp_path / "grid.png").exists()


@pytest.mark.parametrize(
    ("value", "seeds"), [("0-3", [0, 1, 2, 3]), (7, [7]), ([1, 5, 9], [1, 5, 9]), ("12", [12]), ("5-5", [5])]
)
def test_seeds(value, seeds):
    assert parse_seeds(value) == seeds


@pytest.mark.parametrize("arguments", [["seeds=9-3"], ["seeds=x"], ["seeds=[]"], ["seeds=-4"], ["seeds=[a]"]])
def test_what_are_no_seeds(run, capsys, arguments):
    assert cli.command("sample", ["ckpt=runs/tiny", *arguments]) == 1
    assert "range like 0-63 or a list like [1,5,9]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["out=x.jpg"], "a grid is a PNG"), (["mode=images", "out=x.png"], "writes a folder"), (["mode=gird"], "grid")],
)
def test_bad_output(run, capsys, arguments, word):
    assert cli.command("sample", ["ckpt=runs/tiny", *arguments]) == 1
    assert word in capsys.readouterr().err
