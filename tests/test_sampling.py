"""gan-sample, and `ganduel.load`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import ganduel
from ganduel import cli
from ganduel.sampling import latents, parse_seeds


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
    [(["out=x.jpg"], "a picture is a PNG"), (["mode=images", "out=x.png"], "writes a folder"), (["mode=gird"], "grid")],
)
def test_bad_output(run, capsys, arguments, word):
    assert cli.command("sample", ["ckpt=runs/tiny", *arguments]) == 1
    assert word in capsys.readouterr().err


def test_interpolation_goes_from_one_image_to_the_other(run):
    """A row a pair: the ends are the images themselves, and every step is a step on the way."""
    assert cli.command("sample", ["ckpt=runs/tiny", "mode=interpolate", "seeds=[3,8,5,1]", "mode.steps=2"]) == 0
    with Image.open(run / "interpolate.png") as image:
        assert image.size == (4 * 34 + 2, 2 * 34 + 2)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(2 * 34 + 2, 4 * 34 + 2, 3)[..., 0]
    sampler = ganduel.load(run)
    ends = sampler.bytes([3, 8, 5, 1])[:, 0]
    for i, (row, column) in enumerate([(0, 0), (0, 3), (1, 0), (1, 3)]):
        shown = pixels[34 * row + 2 : 34 * row + 34, 34 * column + 2 : 34 * column + 34]
        assert torch.equal(shown, ends[i])
    a, b = sampler.latents([3]), sampler.latents([8])
    assert torch.allclose(latents.slerp(a, b, 0.25).norm(), (a.norm() * 0.75 + b.norm() * 0.25), rtol=0.02)
    assert torch.allclose(latents.slerp(a, b, 0.0), a) and torch.allclose(latents.slerp(a, b, 1.0), b, atol=1e-5)
    assert torch.allclose(latents.slerp(a, a, 0.5), a, atol=1e-4)
    assert latents.slerp(a, b, 0.5).norm() > 1.2 * torch.lerp(a, b, 0.5).norm()  # which cuts through the sphere


def film(path: Path) -> tuple[list[torch.Tensor], int]:
    """Frames (H, W, 3) and how many milliseconds they take in all."""
    with Image.open(path) as image:
        frames = [(np.array(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)]
    return [torch.from_numpy(pixels) for pixels, _ in frames], sum(duration for _, duration in frames)


def test_a_film_goes_there_and_back(run, tmp_path):
    arguments = ["ckpt=runs/tiny", "mode=interpolate", "seeds=[3,8]", "mode.steps=5", "mode.video=gif"]
    assert cli.command("sample", [*arguments, "mode.method=lerp"]) == 0
    frames, duration = film(run / "interpolate.gif")
    assert duration == (7 + 5) * 40  # what looks alike is one frame that stays
    ends = ganduel.load(run).bytes([3, 8])[:, 0].int()
    assert (frames[0][..., 0].int() - ends[0]).abs().max() <= 2  # 256 colours
    colours = [torch.full((3, 8, 8), 60 * i, dtype=torch.uint8) for i in range(4)]
    frames, duration = film(latents.save_gif(colours, tmp_path / "x", fps=10))
    assert [frame[0, 0, 0].item() for frame in frames] == [0, 60, 120, 180, 120, 60] and duration == 600


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mode=interpolate", "seeds=[1,2,3]"], "give an even number of seeds"),
        (["mode=interpolate", "mode.steps=0"], "mode.steps=0 must be 1 or more"),
        (["mode=interpolate", "mode.space=w"], "mode.space=w needs a model with a mapping network"),
        (["mode=interpolate", "mode.space=v"], "mode.space=v is not allowed; it takes z, w"),
        (["mode=interpolate", "mode.video=gif", "out=x.png"], "give a name that ends in .gif"),
        (["mode=interpolate", "mode.steps=5000"], "make a picture of over 65535 pixels a side"),
        (["mode=mix"], "mode=mix needs a model with a style for each layer"),
        (["mode=mix", "mode.columns=x"], "mode.columns=x is not allowed; it takes a range"),
        (["truncation=0.7"], "truncation=0.7 needs a model that knows the average of its styles"),
        (["noise=constant"], "noise=constant needs a model with noise in its layers"),
        (["label=3"], "label=3 is not allowed; this model knows no classes: leave label=null"),
    ],
)
def test_what_a_model_cannot_show(run, capsys, arguments, words):
    assert cli.command("sample", ["ckpt=runs/tiny", *arguments]) == 1
    assert words in capsys.readouterr().err
